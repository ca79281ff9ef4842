"""Recordings: what goes in comes out, once, on a base, again after an abort, from several threads."""

import contextlib
import errno
import os
import random
import threading

import numpy as np
import pytest

from snapd import errors, fsops, units
from snapd.archive import pack
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, content


def test_a_disk_comes_out_as_it_went_in(archive_on_disk: archives.Archive) -> None:
    size_bytes = 5 * BLOCK + 777
    blocks = {0: content(0), 1: os.urandom(BLOCK), 2: bytes(BLOCK), 4: content(4), 5: content(5, 777)}
    statistics = archive_on_disk.record("snap", blocks, size_bytes)
    expected = b"".join(blocks.get(number, bytes(BLOCK)) for number in range(5)) + blocks[5]
    assert archive_on_disk.contents("snap") == expected
    assert (statistics.blocks, statistics.zero_blocks, statistics.new_blocks) == (5, 1, 4)
    assert statistics.bytes_read == 4 * BLOCK + 777
    archive_on_disk.check()


def test_metadata_and_sizes_come_back_with_the_manifest(archive: archives.Archive) -> None:
    metadata = {"name": "naïve ☃", "labels": {"a": "b"}, "times": [1, 2], "parent": None, "ratio": 0.1}
    with archive.repository.begin(ENVIRONMENT, "snap", 3 * BLOCK - 1) as recording:
        recording.commit(metadata)
    found = archive.repository.manifest(ENVIRONMENT, "snap")
    assert found.metadata == metadata
    assert (found.size_bytes, found.block_size, found.blocks) == (3 * BLOCK - 1, BLOCK, 3)
    assert (found.environment_uid, found.snapshot_uid) == (ENVIRONMENT, "snap")


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK, 300 * BLOCK])
def test_an_empty_disk_of_any_size_costs_no_pack(archive: archives.Archive, size_bytes: int) -> None:
    archive.record("snap", {}, size_bytes)
    assert archive.contents("snap") == bytes(size_bytes)
    assert archive.keys("/packs/") == []


def test_equal_blocks_are_stored_once_within_and_across_snapshots(archive: archives.Archive) -> None:
    first = archive.record("one", {number: content(number % 2) for number in range(8)})
    assert (first.new_blocks, first.deduplicated_blocks) == (2, 6)
    second = archive.record("two", {0: content(1), 1: content(2)})
    assert (second.new_blocks, second.deduplicated_blocks) == (1, 1)
    archive.check()


def test_environments_share_nothing(archive: archives.Archive) -> None:
    archive.record("snap", {0: content(0)})
    other = archive.record("snap", {0: content(0)}, environment_uid="env-2")
    assert (other.new_blocks, other.deduplicated_blocks) == (1, 0)
    entry, foreign = (archive.repository.manifest(uid, "snap").entries(0, 1) for uid in (ENVIRONMENT, "env-2"))
    assert entry["name"].tobytes() != foreign["name"].tobytes()


def test_a_recording_on_a_base_takes_over_what_is_not_put(archive: archives.Archive) -> None:
    size_bytes = 600 * BLOCK
    archive.record("base", {number: content(number) for number in (0, 1, 255, 256, 599)}, size_bytes)
    with archive.repository.begin(ENVIRONMENT, "next", size_bytes, "base") as recording:
        recording.put(1, content("new"))
        recording.put_zeroes(np.array([599, 255], np.int64))
        statistics = recording.commit({})
    assert statistics.new_blocks == 1
    found = archive.repository.manifest(ENVIRONMENT, "next")
    assert [found.read(number) for number in (0, 1, 256)] == [content(0), content("new"), content(256)]
    assert not any(map(any, (found.read(255), found.read(599), found.read(300))))
    archive.check()


def test_an_unchanged_disk_shares_its_whole_tree_with_its_base(archive: archives.Archive) -> None:
    archive.record("base", {number: content(number) for number in range(8)})
    before = archive.keys("/packs/")
    archive.record("same", {3: content(3)}, base="base")
    assert archive.keys("/packs/") == before
    roots = {archive.repository.manifest(ENVIRONMENT, uid).document.root for uid in ("base", "same")}
    assert len(roots) == 1


@pytest.mark.parametrize("base_size", [1, BLOCK - 1, BLOCK, 256 * BLOCK, 256 * BLOCK + 5, 300 * BLOCK])
@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK, 200 * BLOCK + 9, 256 * BLOCK, 257 * BLOCK, 70_000 * BLOCK])
def test_a_disk_may_have_grown_or_shrunk_since_its_base(
    archive: archives.Archive, base_size: int, size_bytes: int
) -> None:
    last = (base_size - 1) // BLOCK
    blocks = {0: content(0, min(BLOCK, base_size)), last: content(last, base_size - last * BLOCK)}
    archive.record("base", blocks, base_size)
    archive.record("resized", {}, size_bytes, base="base")
    expected = archive.contents("base")[:size_bytes]
    found = archive.repository.manifest(ENVIRONMENT, "resized")
    shown = b"".join(found.read(number) for number in range(min(found.blocks, last + 2)))
    assert shown == (expected + bytes(len(shown)))[: len(shown)]
    assert archives.walk(found) == found.document.packs.references
    assert not found.entries(0, found.blocks)[last + 1 :]["name"].any()


@pytest.mark.parametrize("seed", range(6))
def test_random_recordings_on_bases_keep_contents_and_tables_exact(
    archive: archives.Archive, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(pack, "TARGET", 256 * units.KIB)
    rng = random.Random(seed)
    disk: dict[int, bytes] = {}
    size_bytes, base = 400 * BLOCK, None
    for turn in range(12):
        if rng.random() < 0.4:
            size_bytes = rng.choice([1, 100, 256, 257, 400, 700]) * BLOCK - rng.choice([0, 0, 1, BLOCK // 2])
            disk = {number: data for number, data in disk.items() if number * BLOCK < size_bytes}
            last = (size_bytes - 1) // BLOCK
            disk = {
                number: (data + bytes(BLOCK))[: min(BLOCK, size_bytes - number * BLOCK)]
                for number, data in disk.items()
            }
            assert all(number <= last for number in disk)
        blocks = (size_bytes - 1) // BLOCK + 1
        with archive.repository.begin(ENVIRONMENT, f"snap-{turn}", size_bytes, base) as recording:
            for _ in range(rng.randrange(30)):
                number = rng.randrange(blocks)
                data = content(rng.randrange(20), min(BLOCK, size_bytes - number * BLOCK))
                recording.put(number, data)
                disk[number] = data
            zeroes = np.array([rng.randrange(blocks) for _ in range(rng.randrange(40))], np.int64)
            recording.put_zeroes(zeroes)
            for number in zeroes.tolist():
                disk.pop(number, None)
            recording.commit({})
        base = f"snap-{turn}"
        found = archive.repository.manifest(ENVIRONMENT, base)
        assert dict(found.read_blocks(0, found.blocks)) == {number: data for number, data in disk.items() if any(data)}
        first = rng.randrange(blocks)
        target = bytearray(b"?" * (min(blocks - first, rng.randrange(1, 100)) * BLOCK))
        ranges = found.read_into(first, memoryview(target))
        expected = {number: data for number, data in disk.items() if first <= number < first + len(target) // BLOCK}
        shown = bytearray(len(target))
        for low, high in ranges:
            shown[low:high] = target[low:high]
        assert shown == b"".join(
            expected.get(number, b"").ljust(BLOCK, b"\0") for number in range(first, first + len(target) // BLOCK)
        )
        assert sum(high - low for low, high in ranges) == sum(len(data) for data in expected.values() if any(data))
    archive.check()


def test_two_threads_may_put_at_once(archive_on_disk: archives.Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "TARGET", 512 * units.KIB)
    blocks = {number: content(number % 90) for number in range(120)}
    with archive_on_disk.repository.begin(ENVIRONMENT, "snap", 120 * BLOCK) as recording:

        def work(first: int) -> None:
            for number in range(first, 120, 2):
                recording.put(number, blocks[number])

        threads = [threading.Thread(target=work, args=(first,)) for first in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statistics = recording.commit({})
    assert archive_on_disk.contents("snap") == b"".join(blocks[number] for number in range(120))
    assert (statistics.blocks, statistics.new_blocks + statistics.deduplicated_blocks) == (120, 120)
    assert len(archive_on_disk.keys("/packs/")) > 4
    archive_on_disk.check()


def test_threads_with_equal_blocks_store_them_once(archive: archives.Archive) -> None:
    barrier = threading.Barrier(4)
    with archive.repository.begin(ENVIRONMENT, "snap", 80 * BLOCK) as recording:

        def work(first: int) -> None:
            for number in range(first, 80, 4):
                barrier.wait()
                recording.put(number, content(number // 4))

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert recording.commit({}).new_blocks == 20


def test_after_an_abort_only_what_is_missing_is_stored(
    archive: archives.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "TARGET", 128 * units.KIB)
    blocks = {number: content(number) for number in range(40)}
    recording = archive.repository.begin(ENVIRONMENT, "snap", 40 * BLOCK)
    for number in range(30):
        recording.put(number, blocks[number])
    recording.abort()
    archive.reopen()
    statistics = archive.record("snap", blocks, 40 * BLOCK)
    assert statistics.deduplicated_blocks >= 24
    assert archive.contents("snap") == b"".join(blocks.values())


def test_an_aborted_recording_leaves_no_manifest_and_no_half_object(archive_on_disk: archives.Archive) -> None:
    with archive_on_disk.repository.begin(ENVIRONMENT, "snap", BLOCK) as recording:
        recording.put(0, content(0))
    assert archive_on_disk.repository.snapshots(ENVIRONMENT) == []
    archive_on_disk.repository.upkeep.collect()
    archive_on_disk.repository.delete_environment(ENVIRONMENT)
    folder = archive_on_disk.index_path.parent / "archive"
    assert {path.name for path in folder.rglob("*")} >= {"repository.json", "epochs"}
    assert [path for path in folder.rglob("*") if path.name.startswith(".") or "environments" in path.parts] == []


def test_what_breaks_a_rule_is_refused(archive: archives.Archive) -> None:
    with archive.repository.begin(ENVIRONMENT, "snap", 2 * BLOCK - 1) as recording:
        for number in (-1, 2):
            with pytest.raises(errors.OutOfRange):
                recording.put(number, content(0))
            with pytest.raises(errors.OutOfRange):
                recording.put_zeroes(np.array([number], np.int64))
        for number, length in ((0, BLOCK - 1), (1, BLOCK), (0, 0)):
            with pytest.raises(errors.InvalidField):
                recording.put(number, bytes(length))
        with pytest.raises(errors.InvalidField):
            recording.commit({"when": object()})
    for uid in ("", "a/b", "..", ".a", "a" * 129):
        with pytest.raises(errors.InvalidField):
            archive.repository.begin(ENVIRONMENT, uid, 1)
        with pytest.raises(errors.InvalidField):
            archive.repository.begin(uid, "snap", 1)
    with pytest.raises(errors.InvalidField):
        archive.repository.begin(ENVIRONMENT, "snap", -1)
    with pytest.raises(errors.NotFound):
        archive.repository.begin(ENVIRONMENT, "snap", 1, "no-such-base")


def test_a_snapshot_is_archived_once(archive: archives.Archive) -> None:
    running = archive.repository.begin(ENVIRONMENT, "snap", BLOCK)
    archive.record("snap", {0: content(0)}, BLOCK)
    with pytest.raises(errors.AlreadyExists):
        archive.repository.begin(ENVIRONMENT, "snap", BLOCK)
    running.put(0, content(1))
    with pytest.raises(errors.AlreadyExists):
        running.commit({})
    assert archive.contents("snap") == content(0)


def _unfinished() -> list[str]:
    """Return the unfinished objects that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if "/packs/" in path and ".tmp" in path]


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.ENOSPC, errors.StorageFull), (errno.EIO, errors.ArchiveUnreachable)]
)
@pytest.mark.parametrize(
    "where",
    ["create", "pwrite", "fsync", "link", "archive.pack-finished", "archive.before-proof", "archive.before-manifest"],
)
def test_a_failing_store_fails_the_recording_and_the_next_one_succeeds(
    archive_on_disk: archives.Archive, where: str, code: int, expected: type[errors.SnapdError]
) -> None:
    blocks = {number: content(number) for number in range(4)}
    struck = []

    def fail(operation: fsops.Operation) -> None:
        if where == (operation.target if operation.name == "point" else operation.name):
            struck.append(operation)
            raise OSError(code, os.strerror(code))

    recording = archive_on_disk.repository.begin(ENVIRONMENT, "snap", 4 * BLOCK)
    fsops.observe(fail)
    with pytest.raises(expected):  # noqa: PT012 - which of the calls fails depends on where
        for number, data in blocks.items():
            recording.put(number, data)
        recording.commit({})
    fsops.observe(None)
    recording.abort()
    assert struck
    assert _unfinished() == [], "what failed is let go of at once"
    assert archive_on_disk.repository.snapshots(ENVIRONMENT) == []
    archive_on_disk.record("snap", blocks, 4 * BLOCK)
    assert archive_on_disk.contents("snap") == b"".join(blocks.values())


def test_packs_that_vanish_between_their_proof_and_the_manifest_are_missed(archive: archives.Archive) -> None:
    # As where a store was away for a moment, and what was written and read back meanwhile lies elsewhere.
    lost: list[str] = []

    def lose(operation: fsops.Operation) -> None:
        if operation.target == "archive.before-proof":
            lost.extend(key for key in archive.keys("/packs/") if archive.store.delete(key))

    fsops.observe(lose)
    try:
        with pytest.raises(errors.ArchiveUnreachable):
            archive.record("snap", {0: content(0)})
    finally:
        fsops.observe(None)
    assert lost
    assert archive.repository.snapshots(ENVIRONMENT) == []
    archive.record("snap", {0: content(0)})
    archive.check()
