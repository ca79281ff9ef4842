"""The format as docs/archive-format.md states it: a second reader, made from that page alone, reads what we write."""

import json
import pathlib
import random
import struct
from collections.abc import Iterator, Mapping, Sequence

import pytest
from blake3 import blake3

from snapd import errors, units
from snapd.archive import documents, layout, pack, sealing
from snapd.archive.backends import backend, memory
from tests.unit.archive import archives, second_reader
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "TARGET", 128 * units.KIB)


KEYS = [bytes([1]) * 32, bytes([2]) * 32]


def open_archive(
    tmp_path: pathlib.Path, keys: Sequence[bytes], store: backend.Backend | None = None, name: str = "index.sqlite3"
) -> archives.Archive:
    keyring = sealing.Keyring(keys) if keys else None
    return archives.Archive.open(store or memory.MemoryBackend(), tmp_path / name, keyring=keyring, adopt=bool(store))


@pytest.fixture(params=["plain", "encrypted"])
def any_archive(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[archives.Archive]:
    opened = open_archive(tmp_path, KEYS[:1] if request.param == "encrypted" else [])
    yield opened
    opened.repository.close()


def second(archive: archives.Archive) -> second_reader.Archive:
    return second_reader.Archive(archive.store, KEYS)


def assert_same(archive: archives.Archive, disks: Mapping[str, bytes]) -> None:
    """Both readers find just these disks."""
    other = second(archive)
    assert other.hosts() == archive.repository.hosts() == [HOST]
    assert other.environments(HOST) == archive.repository.environments() == [ENVIRONMENT]
    assert other.snapshots(HOST, ENVIRONMENT) == archive.repository.snapshots(ENVIRONMENT) == sorted(disks)
    for uid, disk in disks.items():
        assert other.read(HOST, ENVIRONMENT, uid) == archive.contents(uid) == disk


def joined(blocks: Mapping[int, bytes], size_bytes: int) -> bytes:
    disk = bytearray(size_bytes)
    for number, data in blocks.items():
        disk[number * BLOCK : number * BLOCK + len(data)] = data
    return bytes(disk)


def unseal(data: bytes, kind: int, key: bytes | None) -> dict[str, documents.Json]:
    body, _, rest = data.rpartition(b',"checksum":')
    covered = body + bytes([kind])
    assert json.loads(rest.removesuffix(b"}")) == (blake3(covered, key=key) if key else blake3(covered)).hexdigest()
    members = json.loads(data)
    assert isinstance(members, dict)
    return members


@pytest.mark.usefixtures("small_packs")
def test_a_reader_made_from_the_documentation_reads_a_chain_of_snapshots(any_archive: archives.Archive) -> None:
    size_bytes = 600 * BLOCK + 99
    blocks = {number: content(number) for number in range(0, 600, 50)}
    blocks |= {600: content(600, 99), 7: random.Random(7).randbytes(BLOCK)}
    changes = {50: content("new"), 100: bytes(BLOCK), 300: content(0), 599: content("end")}
    disks = {"base": joined(blocks, size_bytes), "next": joined(blocks | changes, size_bytes)}
    any_archive.record("base", blocks, size_bytes)
    any_archive.record("next", changes, size_bytes, base="base")
    # Longer, then shorter than what it is based on, so that the last block changes its length.
    any_archive.record("longer", {601: content("on")}, 602 * BLOCK, base="next")
    disks["longer"] = joined({601: content("on")}, 602 * BLOCK)
    disks["longer"] = disks["next"] + disks["longer"][size_bytes:]
    any_archive.record("shorter", {}, 256 * BLOCK - 5, base="longer")
    disks["shorter"] = disks["longer"][: 256 * BLOCK - 5]
    assert_same(any_archive, disks)


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK, BLOCK + 1, 256 * BLOCK, 256 * BLOCK + 1])
def test_the_second_reader_reads_disks_of_any_size(any_archive: archives.Archive, size_bytes: int) -> None:
    rest = size_bytes % BLOCK
    last = {size_bytes // BLOCK: content("last", rest)} if rest else {}
    any_archive.record("zeros", {}, size_bytes)
    any_archive.record("snap", last, size_bytes)
    assert_same(any_archive, {"zeros": bytes(size_bytes), "snap": joined(last, size_bytes)})


def test_the_second_reader_reads_three_levels_of_pages(any_archive: archives.Archive) -> None:
    blocks = {number: content(number) for number in (0, 255, 256, 65_535, 65_536, 69_999)}
    blocks[70_000] = content("end", 17)
    any_archive.record("snap", blocks, 70_000 * BLOCK + 17)
    any_archive.record("next", {65_537: content("new")}, 70_000 * BLOCK + 17, base="snap")
    home = second_reader.Environment(second(any_archive), HOST, ENVIRONMENT)
    disk = second_reader.Disk(home, "snap")
    assert disk.depth == 3
    assert dict(disk.blocks()) == blocks
    assert dict(second_reader.Disk(home, "next").blocks()) == blocks | {65_537: content("new")}


def test_the_second_reader_reads_what_was_sealed_with_an_older_key(tmp_path: pathlib.Path) -> None:
    store = memory.MemoryBackend()
    older = open_archive(tmp_path, KEYS[:1], store)
    older.record("old", {0: content(0), 1: content(1)})
    older.repository.close()
    newer = open_archive(tmp_path, [KEYS[1], KEYS[0]], store)
    newer.record("new", {1: content("changed")}, base="old")
    old, new = {0: content(0), 1: content(1)}, {0: content(0), 1: content("changed")}
    assert_same(newer, {"old": joined(old, 8 * BLOCK), "new": joined(new, 8 * BLOCK)})
    with pytest.raises(second_reader.BrokenError, match="not at hand"):
        second_reader.Archive(store, [KEYS[1]]).snapshots(HOST, ENVIRONMENT)
    newer.repository.close()


def repacked(archive: archives.Archive, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Record and delete until packs were moved, and those that they were moved to as well; return the disk left."""
    monkeypatch.setattr(pack, "TARGET", units.MIB)
    blocks = {number: content(number) for number in range(64)}
    archive.record("snap-0", blocks, 64 * BLOCK)
    # What was in one pack is in several from now on.
    monkeypatch.setattr(pack, "TARGET", 128 * units.KIB)
    for turn, kept in enumerate(({0, 12, 10, 2, 5, 7}, {0, 10}, {0}), 1):
        changes = {number: content((turn, number)) for number in range(64) if number % 15 not in kept}
        archive.record(f"snap-{turn}", changes, 64 * BLOCK, base=f"snap-{turn - 1}")
        archive.repository.delete_snapshot(ENVIRONMENT, f"snap-{turn - 1}")
        blocks |= changes
        assert archive.repository.upkeep.repack().packs_moved
        archive.repository.upkeep.collect()
    return {"snap-3": joined(blocks, 64 * BLOCK)}


def test_the_second_reader_finds_what_was_moved_and_moved_again(
    any_archive: archives.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks = repacked(any_archive, monkeypatch)
    home = second_reader.Environment(second(any_archive), HOST, ENVIRONMENT)
    assert max(map(len, home.moves.values())) > 1, "no pack was moved to several"
    assert any_archive.keys("/moves/")[0].endswith("/00000001.00000003"), "what was moved wasn't moved again"
    assert not home.moves.keys() & home.packs.keys()
    assert_same(any_archive, disks)
    # A recording on top of that refers to packs that are gone, and to those to which they were moved.
    any_archive.record("next", {1: content("next")}, 64 * BLOCK, base="snap-3")
    disks["next"] = disks["snap-3"][:BLOCK] + content("next") + disks["snap-3"][2 * BLOCK :]
    assert_same(any_archive, disks)


def test_the_second_reader_follows_moves_that_nobody_joined(any_archive: archives.Archive) -> None:
    any_archive.record("snap", {0: content(0)})
    home = second_reader.Environment(second(any_archive), HOST, ENVIRONMENT)
    (kept,) = home.packs
    home.moves = {b"a" * 16: [b"b" * 16, b"c" * 16], b"b" * 16: [b"a" * 16], b"c" * 16: [kept]}
    (name, _), (offset, stored, length) = next(item for item in home.pack(kept).rows.items() if item[0][1] == 1)
    entry = name + b"a" * 16 + struct.pack("<II", offset, stored)
    assert home.blob(entry, 1, length) == content(0)
    home.moves = {b"a" * 16: [b"b" * 16], b"b" * 16: [b"a" * 16]}
    with pytest.raises(second_reader.BrokenError, match="is gone"):
        home.blob(entry, 1, length)


def test_after_an_adoption_both_readers_believe_what_the_seal_names(
    tmp_path: pathlib.Path, any_archive: archives.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks = repacked(any_archive, monkeypatch)
    # Forged by copying: what the first owner publishes after the second one has listed what is there.
    any_archive.record("late", {0: content("late")})
    late = {key: any_archive.store.get(key) for key in any_archive.keys("/manifests/late.")}
    any_archive.repository.delete_snapshot(ENVIRONMENT, "late")
    (moves,) = any_archive.keys("/moves/")
    late[moves.replace(".00000003", ".00000004")] = any_archive.store.get(moves)
    late[layout.Area(HOST, "late-env").record(1)] = any_archive.store.get(layout.Area(HOST, ENVIRONMENT).record(1))
    any_archive.repository.close()
    keys = KEYS[:1] if any_archive.keyring else []
    adopter = open_archive(tmp_path, keys, any_archive.store, "adopter.sqlite3")
    try:
        for key, data in late.items():
            adopter.store.put(key, [data])
        assert second(adopter).present(HOST)[0] == 2
        assert_same(adopter, disks)
        home = second_reader.Environment(second(adopter), HOST, ENVIRONMENT)
        assert home.moves_key == moves
        # Of two manifests of one snapshot that of the highest epoch counts.
        adopter.record("again", {2: content("again")}, 64 * BLOCK, base="snap-3")
        disks["again"] = disks["snap-3"][: 2 * BLOCK] + content("again") + disks["snap-3"][3 * BLOCK :]
        assert_same(adopter, disks)
        adopter.repository.upkeep.collect()
        assert not any(adopter.store.size(key) is not None for key in late if "late-env" not in key)
        assert_same(adopter, disks)
        # The adopter moves what its predecessor had moved: from then on its own moves count.
        adopter.record("new", {number: content(("new", number)) for number in range(1, 64)}, 64 * BLOCK, base="snap-3")
        for uid in ("snap-3", "again"):
            adopter.repository.delete_snapshot(ENVIRONMENT, uid)
        assert adopter.repository.upkeep.repack().packs_moved
        new = {0: content(0)} | {number: content(("new", number)) for number in range(1, 64)}
        assert_same(adopter, {"new": joined(new, 64 * BLOCK)})
        home = second_reader.Environment(second(adopter), HOST, ENVIRONMENT)
        assert home.moves_key.endswith("/00000002.00000001")
    finally:
        adopter.repository.close()


def test_of_two_manifests_that_count_that_of_the_newest_epoch_does(
    tmp_path: pathlib.Path, any_archive: archives.Archive
) -> None:
    any_archive.record("snap", {0: content("old")})
    old = any_archive.keys("/manifests/")[0]
    data = any_archive.store.get(old)
    any_archive.repository.close()
    keys = KEYS[:1] if any_archive.keyring else []
    adopter = open_archive(tmp_path, keys, any_archive.store, "adopter.sqlite3")
    try:
        adopter.repository.delete_snapshot(ENVIRONMENT, "snap")
        adopter.record("snap", {0: content("new")})
        adopter.store.put(old, [data])
        assert_same(adopter, {"snap": joined({0: content("new")}, 8 * BLOCK)})
    finally:
        adopter.repository.close()


def test_an_archive_keeps_the_block_size_it_was_made_with(archive: archives.Archive) -> None:
    archive.reopen()
    assert archive.repository.block_size == BLOCK


@pytest.mark.parametrize("block_size", [0, 1, 32 * units.KIB, 65537, 100_000, 8 * units.MIB])
def test_a_block_size_outside_the_format_is_refused(archive: archives.Archive, block_size: int) -> None:
    with pytest.raises(errors.InvalidField):
        archive.repository.open(archive.store, archive.index_path, HOST, block_size=block_size)


@pytest.mark.parametrize("member", ["version", "required_to_read", "required_to_write"])
def test_an_archive_of_a_later_format_is_refused(archive: archives.Archive, member: str) -> None:
    members = unseal(archive.store.get("repository.json"), 0x52, None)
    del members["checksum"]
    members[member] = 2 if member == "version" else ["later"]
    later = documents.encode(members, lambda body: bytes(blake3(body + b"\x52").digest()))
    archive.replace("repository.json", later)
    with pytest.raises(errors.SchemaTooNew):
        archive.reopen()


def test_members_that_are_not_known_are_ignored(archive: archives.Archive) -> None:
    members = unseal(archive.store.get("repository.json"), 0x52, None)
    del members["checksum"]
    members["motto"] = "later"
    archive.replace("repository.json", documents.encode(members, lambda body: bytes(blake3(body + b"\x52").digest())))
    archive.reopen()
    archive.record("snap", {0: content(0)})


def test_another_host_reads_what_this_one_wrote_and_deletes_none_of_it(archive: archives.Archive) -> None:
    archive.record("snap", {0: content(0)})
    other = archive.repository.open(archive.store, archive.index_path.with_name("other.sqlite3"), "host-2")
    try:
        assert other.hosts() == [HOST, "host-2"]
        assert other.environments(HOST) == [ENVIRONMENT]
        assert other.snapshots(ENVIRONMENT, HOST) == ["snap"]
        assert other.manifest(ENVIRONMENT, "snap", HOST).read(0) == content(0)
        assert other.environments() == []
        assert other.delete_snapshot(ENVIRONMENT, "snap") is False
        assert other.upkeep.collect().packs_deleted == 0
    finally:
        other.close()
    archive.check()
