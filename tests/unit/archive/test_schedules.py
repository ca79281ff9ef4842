"""Schedules that once lost something, or would have: late and lost answers, stale owners, stale readers."""

import contextlib
import pathlib
from collections.abc import Iterable

import pytest

from snapd import errors, units
from snapd.archive import layout, manifest, pack, repository
from snapd.archive.backends import backend, memory
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content

AREA = layout.Area(HOST, ENVIRONMENT)
SIZE = 64 * BLOCK


class LossyStore(memory.MemoryBackend):
    """A store whose answer to the creation of some objects is lost, though they are made."""

    lost = ""

    def put(self, key: str, chunks: Iterable[backend.Bytes]) -> None:
        super().put(key, chunks)
        if self.lost and self.lost in key:
            raise errors.ArchiveUnreachable(problem="the answer was lost")


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "TARGET", 256 * units.KIB)


def make_sparse(archive: archives.Archive, uid: str = "live", salt: str = "") -> bytes:
    """Leave a snapshot that refers to few blobs of many packs, and return its disk."""
    blocks = {number: content((salt, number)) for number in range(64)}
    archive.record(f"{uid}-base", blocks, SIZE)
    changes = {number: content((salt, "new", number)) for number in range(64) if number % 8}
    archive.record(uid, changes, SIZE, base=f"{uid}-base")
    archive.repository.delete_snapshot(ENVIRONMENT, f"{uid}-base")
    return b"".join((blocks | changes)[number] for number in range(64))


def adopt(archive: archives.Archive, tmp_path: pathlib.Path) -> archives.Archive:
    """Have another machine take over what a first one, which says that it has ended, left."""
    archive.repository.close()
    return archives.Archive.open(archive.store, tmp_path / "adopter.sqlite3", adopt=True)


def test_moves_whose_answer_was_lost_count(tmp_path: pathlib.Path) -> None:
    store = LossyStore()
    archive = archives.Archive.open(store, tmp_path / "index.sqlite3")
    disk = make_sparse(archive)
    store.lost = "/moves/"
    with pytest.raises(errors.ArchiveUnreachable):
        archive.repository.upkeep.repack()
    store.lost = ""
    assert archive.keys("/moves/")
    # The same process must not take for dead what a published table says that blobs were moved to; the next process
    # would believe that table, and take the emptied packs for dead.
    archive.repository.upkeep.collect()
    assert archive.contents("live") == disk
    archive.reopen()
    archive.repository.upkeep.collect()
    assert archive.contents("live") == disk
    archive.repository.close()


def test_an_emptied_pack_is_kept_while_one_of_those_it_was_moved_to_is_missing(archive: archives.Archive) -> None:
    disk = make_sparse(archive)
    before = {key: archive.store.get(key) for key in archive.keys("/packs/")}
    archive.repository.upkeep.repack()
    for target in {target for targets in table_of(archive).values() for target in targets}:
        archive.store.delete(AREA.pack(target))
    for key, data in before.items():
        if archive.store.size(key) is None:
            archive.store.put(key, [data])
    archive.reopen()
    archive.repository.upkeep.collect()
    assert archive.contents("live") == disk


def table_of(archive: archives.Archive) -> dict[bytes, tuple[bytes, ...]]:
    return dict(archive.repository.manifest(ENVIRONMENT, "live")._blobs.moves.reload())


def test_sealed_moves_that_are_missing_are_damage_and_nothing_is_collected(
    archive: archives.Archive, tmp_path: pathlib.Path
) -> None:
    disk = make_sparse(archive)
    archive.repository.upkeep.repack()
    (key,) = archive.keys("/moves/")
    adopter = adopt(archive, tmp_path)
    data = adopter.store.get(key)
    adopter.store.delete(key)
    adopter.reopen()
    before = adopter.keys("/packs/")
    with pytest.raises(errors.Corrupt, match="moves"):
        adopter.repository.upkeep.collect()
    assert adopter.keys("/packs/") == before
    adopter.store.put(key, [data])
    adopter.repository.upkeep.collect()
    assert adopter.contents("live") == disk
    adopter.repository.close()


def test_repacking_goes_on_beside_a_damaged_pack(archive: archives.Archive) -> None:
    make_sparse(archive)
    key = archive.keys("/packs/")[0]
    archive.replace(key, archive.store.get(key)[:-1])
    archive.reopen()
    # If it held a page nobody knows what is alive, and that is said.
    with contextlib.suppress(errors.Corrupt):
        archive.repository.upkeep.repack()


def test_an_environment_that_a_stale_owner_begins_too_late_does_not_keep_its_successor_from_it(
    archive: archives.Archive, tmp_path: pathlib.Path
) -> None:
    archive.record("snap", {0: content(0)})
    running = archive.repository.begin("late", "lost", BLOCK)
    record = layout.Area(HOST, "late").record(1)
    data = archive.store.get(record)
    archive.store.delete(record)
    for key in archive.keys("/renewals/"):
        archive.store.delete(key)
    adopter = archives.Archive.open(archive.store, tmp_path / "adopter.sqlite3", adopt=True)
    archive.store.put(record, [data])
    running.put(0, content("lost"))
    with pytest.raises(errors.ArchiveClaimLost):
        running.commit({})
    assert adopter.repository.snapshots("late") == []
    adopter.record("mine", {0: content("mine")}, environment_uid="late")
    assert adopter.repository.snapshots("late") == ["mine"]
    adopter.repository.upkeep.collect()
    assert adopter.keys("/late/manifests/") == [layout.Area(HOST, "late").manifest("mine", 2)]
    adopter.check("late")
    adopter.repository.close()


def test_a_reader_whose_moves_are_out_of_date_finds_what_was_moved_again(
    archive: archives.Archive, tmp_path: pathlib.Path
) -> None:
    disk = make_sparse(archive)
    archive.repository.upkeep.repack()
    other = repository.Repository.open(archive.store, tmp_path / "other.sqlite3", "host-2")

    def read() -> manifest.Manifest:
        return other.manifest(ENVIRONMENT, "live", HOST)

    kept = read()
    assert b"".join(kept.read(number) for number in range(64)) == disk
    # Most of what was moved dies, so that it is moved once more.
    changes = {number: content(("again", number)) for number in range(64) if number % 32}
    archive.record("next", changes, SIZE, base="live")
    archive.repository.delete_snapshot(ENVIRONMENT, "live")
    assert archive.repository.upkeep.repack().packs_deleted
    found = other.manifest(ENVIRONMENT, "next", HOST)
    expected = archive.contents("next")
    assert b"".join(data for _, data in found.read_blocks(0, 64)) == expected
    assert b"".join(found.read(number) for number in range(64)) == expected
    other.close()


def test_claims_that_cannot_be_seen_are_an_unreachable_store_and_no_lost_claim(archive: archives.Archive) -> None:
    claim = archive.repository.connect().claim
    hidden = {key: archive.store.get(key) for key in archive.keys("/epochs/")}
    for key in hidden:
        archive.store.delete(key)
    with pytest.raises(errors.ArchiveUnreachable):
        claim.require()
    for key, data in hidden.items():
        archive.store.put(key, [data])
    claim.require()


def test_a_stale_owner_leaves_its_successors_signs_of_life(archive: archives.Archive, tmp_path: pathlib.Path) -> None:
    stale = archive.repository.connect().claim
    for key in archive.keys("/renewals/"):
        archive.store.delete(key)
    adopter = archives.Archive.open(archive.store, tmp_path / "adopter.sqlite3", adopt=True)
    # Paused after it found its claim to be the highest.
    stale.require = lambda: None  # type: ignore[method-assign]
    stale.renew()
    assert any("/00000002." in key for key in archive.keys("/renewals/"))
    adopter.repository.close()


def test_names_that_are_none_of_the_format_are_neither_believed_nor_removed(archive: archives.Archive) -> None:
    archive.record("snap", {0: content(0)})
    stray = [
        f"hosts/{'h' * 129}/environments/e/keys/00000001",
        f"hosts/{HOST}/environments/{'e' * 129}/keys/00000001",
        f"{AREA.manifests}notes.txt",
        f"{AREA.manifests}folder/snap.00000001",
        f"{AREA.moves}notes.txt",
        f"{AREA.prefix}packs/notes.txt",
        f"{AREA.tombstones}notes.txt",
    ]
    for key in stray:
        archive.store.put(key, [b"stray"])
    archive.reopen()
    assert archive.repository.hosts() == [HOST]
    assert archive.repository.environments() == [ENVIRONMENT]
    assert archive.repository.snapshots(ENVIRONMENT) == ["snap"]
    archive.record("next", {0: content(1)}, base="snap")
    archive.repository.delete_snapshot(ENVIRONMENT, "snap")
    archive.repository.upkeep.repack()
    archive.repository.upkeep.collect()
    archive.check()
    assert all(archive.store.size(key) is not None for key in stray)


def test_a_tombstone_that_a_stale_owner_writes_too_late_hides_no_snapshot_from_a_later_adopter(
    archive: archives.Archive, tmp_path: pathlib.Path
) -> None:
    archive.record("snap", {0: content(0)})
    for key in archive.keys("/renewals/"):
        archive.store.delete(key)
    adopter = archives.Archive.open(archive.store, tmp_path / "adopter.sqlite3", adopt=True)
    # Paused since before the adoption, with the key of the manifest in its hand.
    with pytest.raises(errors.ArchiveClaimLost):
        archive.repository.delete_snapshot(ENVIRONMENT, "snap")
    assert adopter.repository.snapshots(ENVIRONMENT) == ["snap"]
    adopter.repository.close()
    third = archives.Archive.open(archive.store, tmp_path / "third.sqlite3", adopt=True)
    assert third.repository.snapshots(ENVIRONMENT) == ["snap"]
    third.repository.upkeep.collect()
    third.check()
    third.repository.close()


def test_a_manifest_that_the_last_owner_condemned_is_not_believed_by_its_successor(
    archive: archives.Archive, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.record("snap", {0: content(0)})
    # Paused between reading the claims and the delete, which comes when the successor has listed what is there.
    with monkeypatch.context() as patch:
        patch.setattr(archive.store, "delete", bool)
        archive.repository.delete_snapshot(ENVIRONMENT, "snap")
    adopter = adopt(archive, tmp_path)
    assert adopter.repository.snapshots(ENVIRONMENT) == []
    adopter.repository.close()


def test_an_environment_of_another_host_that_was_made_again_is_read_with_its_new_key(
    archive: archives.Archive, tmp_path: pathlib.Path
) -> None:
    other = repository.Repository.open(archive.store, tmp_path / "other.sqlite3", "host-2")
    for uid in ("one", "two"):
        archive.record(uid, {0: content(uid)})
        assert other.manifest(ENVIRONMENT, uid, HOST).read(0) == content(uid)
        archive.repository.delete_snapshot(ENVIRONMENT, uid)
        archive.repository.delete_environment(ENVIRONMENT)
    other.close()


def test_a_base_that_is_recorded_again_while_its_packs_are_pinned_has_its_own_packs_pinned(
    archive: archives.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.record("base", {0: content("old")})
    pins = archive.repository._access.pins
    pin = pins.pin
    again = iter(["new"])

    def cut_in(ids: Iterable[bytes]) -> None:
        pin(ids)
        for seed in again:
            archive.repository.delete_snapshot(ENVIRONMENT, "base")
            archive.record("base", {0: content(seed)})

    monkeypatch.setattr(pins, "pin", cut_in)
    running = archive.repository.begin(ENVIRONMENT, "next", 8 * BLOCK, "base")
    archive.repository.delete_snapshot(ENVIRONMENT, "base")
    archive.repository.upkeep.collect()
    running.commit({})
    assert archive.contents("next")[:BLOCK] == content("new")
    archive.check()
