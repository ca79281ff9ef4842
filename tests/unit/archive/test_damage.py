"""Damage: wrong bytes are never returned, and what is damaged is named."""

import contextlib
import random

import pytest

from snapd import errors, fsops, units
from snapd.archive import layout, pack, pages
from snapd.archive.backends import memory
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content

SIZE = 300 * BLOCK


@pytest.fixture
def filled(archive: archives.Archive) -> archives.Archive:
    """An archive with one snapshot of a few blocks and two levels of pages."""
    archive.record("snap", {number: content(number) for number in (0, 1, 2, 255, 256, 299)}, SIZE)
    return archive


def read_all(archive: archives.Archive) -> dict[int, bytes]:
    found = archive.repository.manifest(ENVIRONMENT, "snap")
    return dict(found.read_blocks(0, found.blocks))


@pytest.mark.parametrize("kind", ["repository.json", "/keys/", "/epochs/", "/manifests/", "/packs/"])
def test_a_flipped_bit_anywhere_is_found_or_does_not_matter(filled: archives.Archive, kind: str) -> None:
    expected = read_all(filled)
    key = filled.keys(kind)[0]
    pristine = filled.store.get(key)
    positions = random.Random(kind).sample(range(len(pristine)), min(40, len(pristine)))
    found = 0
    for position in [0, len(pristine) - 1, *positions]:
        filled.damage(key, position)
        try:
            filled.reopen()
            shown = read_all(filled)
        except errors.Corrupt:
            found += 1
            # A damaged repository.json or claim closes the door before the repository is open again.
            filled.replace(key, pristine)
            filled.reopen()
        else:
            assert shown == expected
            filled.replace(key, pristine)
    # In a pack the header and the index aren't needed to read what entries point at; the rest always is.
    assert found == 2 + len(positions) if kind != "/packs/" else found > 30


@pytest.mark.parametrize("proof", ["prove", "verify"])
def test_a_flipped_bit_anywhere_in_a_pack_is_found_by_a_proof(filled: archives.Archive, proof: str) -> None:
    key = filled.keys("/packs/")[0]
    pristine = filled.store.get(key)
    pack_id = layout.pack_id(key)
    assert pack_id is not None
    reader = filled.repository.manifest(ENVIRONMENT, "snap")._blobs

    def check(size_bytes: int) -> pack.Index:
        if proof == "prove":
            return pack.prove(filled.store, reader.home, pack_id, size_bytes)
        return pack.verify(filled.store, reader.home, pack_id, reader.codec, size_bytes)

    for position in [*range(40), *random.Random(1).sample(range(len(pristine)), 60), *range(-120, 0)]:
        filled.damage(key, position % len(pristine))
        with pytest.raises(errors.Corrupt):
            check(len(pristine))
        filled.replace(key, pristine)


@pytest.mark.parametrize("length", [0, 1, 31, 95, 96, 1000, -1, -64, -65])
def test_a_pack_that_is_cut_short_is_named(filled: archives.Archive, length: int) -> None:
    key = filled.keys("/packs/")[0]
    filled.replace(key, filled.store.get(key)[:length])
    filled.reopen()
    pack_id = layout.pack_id(key)
    assert pack_id is not None
    if length > 0:
        with pytest.raises(errors.Corrupt, match=pack_id.hex()):
            read_all(filled)
    else:
        home = filled.repository.manifest(ENVIRONMENT, "snap")._blobs.home
        with pytest.raises(errors.Corrupt, match=pack_id.hex()):
            pack.read_index(filled.store, home, pack_id)


def test_a_missing_pack_is_named(filled: archives.Archive) -> None:
    key = filled.keys("/packs/")[0]
    filled.store.delete(key)
    with pytest.raises(errors.Corrupt, match="missing"):
        read_all(filled)


def test_packs_that_were_swapped_are_told_apart(archive: archives.Archive) -> None:
    archive.record("snap", {0: content(0)})
    archive.record("other", {0: content(1)})
    one, two = archive.keys("/packs/")
    first, second = archive.store.get(one), archive.store.get(two)
    archive.replace(one, second)
    archive.replace(two, first)
    with pytest.raises(errors.Corrupt):
        archive.contents("snap")


def test_an_archive_that_is_not_mounted_is_unreachable_and_not_damaged(filled: archives.Archive) -> None:
    found = filled.repository.manifest(ENVIRONMENT, "snap")
    mounted, empty = filled.store, memory.MemoryBackend()
    filled.repository._store = filled.repository._access.store = found._blobs.store = empty
    for call in (
        lambda: filled.repository.manifest(ENVIRONMENT, "snap"),
        lambda: filled.repository.snapshots(ENVIRONMENT),
        filled.repository.environments,
        filled.repository.upkeep.collect,
        lambda: found.read(0),
    ):
        with pytest.raises(errors.ArchiveUnreachable):
            call()
    filled.repository._store = filled.repository._access.store = found._blobs.store = mounted
    assert read_all(filled)


def test_a_store_that_lost_its_archive_is_not_taken_for_a_new_one(filled: archives.Archive) -> None:
    store, filled.store = filled.store, memory.MemoryBackend()
    with pytest.raises(errors.ArchiveUnreachable, match="isn't mounted"):
        filled.reopen()
    filled.store = store
    filled.reopen()


def test_a_manifest_is_refused_under_another_name_and_in_another_environment(filled: archives.Archive) -> None:
    filled.record("snap", {0: content(0)}, environment_uid="env-2")
    data = filled.store.get(layout.Area(HOST, ENVIRONMENT).manifest("snap", 1))
    filled.store.put(layout.Area(HOST, ENVIRONMENT).manifest("renamed", 1), [data])
    filled.store.put(layout.Area(HOST, "env-2").manifest("moved", 1), [data])
    with pytest.raises(errors.Corrupt):
        filled.repository.manifest(ENVIRONMENT, "renamed")
    with pytest.raises(errors.Corrupt):
        filled.repository.manifest("env-2", "moved")


def test_an_environment_whose_record_is_gone_is_damaged_and_gets_no_new_key(filled: archives.Archive) -> None:
    filled.store.delete(layout.Area(HOST, ENVIRONMENT).record(1))
    filled.reopen()
    with pytest.raises(errors.Corrupt):
        filled.repository.manifest(ENVIRONMENT, "snap")
    with pytest.raises(errors.Corrupt):
        filled.repository.begin(ENVIRONMENT, "next", BLOCK)


def test_a_recording_is_not_published_if_the_store_wrote_other_bytes(
    archive: archives.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "TARGET", 128 * units.KIB)
    recording = archive.repository.begin(ENVIRONMENT, "snap", 8 * BLOCK)

    def spoil(operation: fsops.Operation) -> None:
        if operation.target == "archive.pack-finished":
            for key in archive.keys("/packs/"):
                archive.damage(key, 50)

    fsops.observe(spoil)
    with pytest.raises(errors.Corrupt, match="not proven"):  # noqa: PT012 - whichever notices first
        for number in range(8):
            recording.put(number, content(number))
        recording.commit({})
    fsops.observe(None)
    recording.abort()
    assert archive.repository.snapshots(ENVIRONMENT) == []
    # What is known to be damaged is no hit: all is stored anew.
    archive.record("snap", {number: content(number) for number in range(8)})
    archive.check()


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_a_base_with_a_pack_that_is_gone_fails_the_recording_and_a_full_one_succeeds(
    archive: archives.Archive, harm: str
) -> None:
    blocks = {number: content(number) for number in range(8)}
    archive.record("base", blocks)
    key = archive.keys("/packs/")[0]
    recording = archive.repository.begin(ENVIRONMENT, "next", 8 * BLOCK, "base")
    data = archive.store.get(key)
    archive.store.delete(key)
    if harm == "short":
        archive.store.put(key, [data[:-1]])
    with contextlib.suppress(errors.Corrupt):
        recording.put(0, content("new"))
    # Whether or not that needed a page of the damaged pack, nothing is published.
    with pytest.raises(errors.Corrupt):
        recording.commit({})
    assert archive.repository.snapshots(ENVIRONMENT) == ["base"]
    archive.record("next", blocks)
    assert archive.contents("next") == b"".join(blocks.values())


def test_a_damaged_block_is_whole_again_once_its_content_was_archived_anew(archive: archives.Archive) -> None:
    blocks = {number: content(number) for number in range(8)}
    archive.record("old", blocks)
    archive.damage(archive.keys("/packs/")[0], 1000)
    with pytest.raises(errors.Corrupt):
        archive.contents("old")
    assert archive.record("new", blocks).new_blocks == 8
    assert archive.contents("old") == b"".join(blocks.values())


def test_blocks_that_were_found_in_an_unproven_pack_are_proven_before_they_count(archive: archives.Archive) -> None:
    blocks = {number: content(number) for number in range(8)}
    archive.record("snap", blocks)
    archive.repository.delete_snapshot(ENVIRONMENT, "snap")
    archive.damage(archive.keys("/packs/")[0], 1000)
    archive.lose_index()
    recording = archive.repository.begin(ENVIRONMENT, "again", 8 * BLOCK)
    for number, data in blocks.items():
        recording.put(number, data)
    assert recording.statistics.deduplicated_blocks == 8
    with pytest.raises(errors.Corrupt, match="not proven"):
        recording.commit({})
    archive.record("again", blocks)
    assert archive.contents("again") == b"".join(blocks.values())


def test_a_wrong_place_in_an_entry_is_put_right_by_name(archive: archives.Archive) -> None:
    archive.record("snap", {0: content(0), 1: content(1)})
    found = archive.repository.manifest(ENVIRONMENT, "snap")
    entry = found.entries(0, 2)
    moved = pages.decode(entry[0].tobytes())._replace(offset=int(entry[1]["offset"]))
    assert found.read_entry(0, moved) == content(0)
    gone = moved._replace(pack=bytes(16))
    assert found.read_entry(0, gone) == content(0)
