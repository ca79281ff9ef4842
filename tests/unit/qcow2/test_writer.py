import errno
import os
import pathlib

import numpy as np
import pytest

from snapd import errors, fsops, units
from snapd.qcow2.checking import check, repair
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, ledger, writer

CLUSTER = 65536
SIZE = 64 * CLUSTER


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=SIZE)
    return path


def content(path: pathlib.Path) -> bytes:
    with image.Image.open(path) as opened:
        buffer = bytearray(opened.size_bytes)
        chain.Chain([opened]).read_into(0, memoryview(buffer))
        return bytes(buffer)


def operations_of(path: pathlib.Path, data: bytes, offset: int = 0) -> list[fsops.Operation]:
    """Return the operations that one write takes."""
    found: list[fsops.Operation] = []
    with writer.Writer.open(path) as target:
        fsops.observe(found.append)
        try:
            target.write(offset, data)
        finally:
            fsops.observe(None)
    return found


def test_a_run_of_new_clusters_is_one_write_to_one_place(path: pathlib.Path) -> None:
    found = operations_of(path, b"d" * units.MIB)
    assert [(operation.name, operation.length) for operation in found] == [("pwrite", units.MIB)]
    with image.Image.open(path) as opened:
        assert len(opened.block_map(0, SIZE)) == 1


def test_clusters_of_the_image_s_own_are_overwritten_in_place(path: pathlib.Path) -> None:
    operations_of(path, b"1" * (4 * CLUSTER))
    before = path.stat().st_size
    found = operations_of(path, b"2" * (3 * CLUSTER + 512), offset=512)
    assert path.stat().st_size == before
    assert sum(operation.length for operation in found) == 3 * CLUSTER + 512
    assert content(path)[: 4 * CLUSTER] == b"1" * 512 + b"2" * (3 * CLUSTER + 512) + b"1" * (CLUSTER - 1024)


def test_zeroing_gives_clusters_back_and_they_are_used_again(path: pathlib.Path) -> None:
    with writer.Writer.open(path) as target:
        target.write(0, b"1" * (32 * CLUSTER))
        target.flush()
        full = path.stat().st_blocks
        target.write_zeroes(0, 32 * CLUSTER)
        target.flush()
        assert path.stat().st_blocks < full - 31 * CLUSTER // 512
        size = path.stat().st_size
        target.write(32 * CLUSTER, b"2" * (32 * CLUSTER))
    assert path.stat().st_size == size
    assert check.check(path).clean
    assert content(path) == bytes(32 * CLUSTER) + b"2" * (32 * CLUSTER)


def test_free_clusters_of_an_older_writer_are_found(path: pathlib.Path) -> None:
    with writer.Writer.open(path) as target:
        target.write(0, b"1" * (32 * CLUSTER))
        target.flush()
        target.discard(0, 16 * CLUSTER)
    size = path.stat().st_size
    with writer.Writer.open(path) as target:
        target.write(40 * CLUSTER, b"2" * (16 * CLUSTER))
    assert path.stat().st_size == size
    assert check.check(path).clean


def test_zeroing_what_is_empty_writes_nothing(path: pathlib.Path) -> None:
    before = path.read_bytes()
    with writer.Writer.open(path) as target:
        target.write_zeroes(512, SIZE - 512)
        target.discard(0, SIZE)
    assert path.read_bytes() == before


def test_an_abandoned_writer_leaves_what_was_flushed(path: pathlib.Path) -> None:
    target = writer.Writer.open(path)
    target.write(0, b"1" * CLUSTER)
    target.flush()
    target.write(CLUSTER, b"2" * CLUSTER)
    target.abandon()
    assert content(path) == (b"1" * CLUSTER).ljust(SIZE, b"\0")
    assert check.check(path).clean


def test_an_error_inside_its_context_abandons_the_writer(path: pathlib.Path) -> None:
    def fail_on_the_way() -> None:
        with writer.Writer.open(path) as target:
            target.write(0, b"1" * CLUSTER)
            raise KeyError

    with pytest.raises(KeyError):
        fail_on_the_way()
    assert content(path) == bytes(SIZE)


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, errors.StorageFull), (errno.EIO, errors.StorageFailed)])
@pytest.mark.parametrize("failing", ["pwrite", "fdatasync"])
def test_after_an_error_of_the_file_system_nothing_more_is_taken(
    path: pathlib.Path, failing: str, code: int, error: type[errors.SnapdError]
) -> None:
    def observer(operation: fsops.Operation) -> None:
        if operation.name == failing:
            raise OSError(code, os.strerror(code))

    def write_and_flush() -> None:
        target.write(0, b"1" * CLUSTER)
        target.flush()

    target = writer.Writer.open(path)
    fsops.observe(observer)
    try:
        with pytest.raises(error):
            write_and_flush()
    finally:
        fsops.observe(None)
    with pytest.raises(errors.StorageFailed, match="unusable"):
        target.flush()
    with pytest.raises(errors.StorageFailed, match="unusable"):
        target.close()
    assert content(path) == bytes(SIZE)
    assert check.check(path).corruptions == 0


def test_ranges_are_checked_before_anything_is_written(path: pathlib.Path) -> None:
    with writer.Writer.open(path) as target:
        with pytest.raises(errors.OutOfRange):
            target.write(SIZE - 512, bytes(1024))
        with pytest.raises(errors.OutOfRange):
            target.write_zeroes(-512, 512)
        with pytest.raises(errors.InvalidField, match="multiples"):
            target.write(1, bytes(512))
        with pytest.raises(errors.InvalidField, match="whole clusters"):
            target.copy_extents(0, *(np.array([value], np.int64) for value in (512, CLUSTER, 0)))
        with pytest.raises(errors.InvalidField, match="whole clusters"):
            target.write_compressed(512, bytes(CLUSTER))
        target.write(0, b"1" * 512)
    assert content(path)[:512] == b"1" * 512


def test_a_part_of_a_cluster_needs_the_chain_below(tmp_path: pathlib.Path) -> None:
    create.create(tmp_path / "top", size_bytes=SIZE, backing_name="bottom")
    target = writer.Writer.open(tmp_path / "top")
    target.write(0, b"1" * CLUSTER)
    with pytest.raises(errors.InvalidField, match="chain"):
        target.write(CLUSTER, b"1" * 512)
    target.abandon()


@pytest.mark.parametrize(
    ("offset", "value", "problem"),
    [(79, 2, "marked corrupt"), (79, 3, "marked corrupt"), (63, 1, "snapshot")],
)
def test_images_that_it_could_harm_are_refused(path: pathlib.Path, offset: int, value: int, problem: str) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([value]))
    before = path.read_bytes()
    with pytest.raises(errors.ImageRefused, match=problem):
        writer.Writer.open(path)
    assert path.read_bytes() == before


def test_autoclear_features_are_cleared(path: pathlib.Path) -> None:
    with path.open("r+b") as file:
        file.seek(88)
        file.write(b"\x80" + bytes(6) + b"\x02")
    writer.Writer.open(path).close()
    with image.Image.open(path) as opened:
        assert opened.header.autoclear == 0


def test_the_refcount_table_grows_with_the_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "small-clusters"
    create.create(path, size_bytes=48 * units.MIB, cluster_size=512)
    with writer.Writer.open(path) as target:
        for offset in range(0, 40 * units.MIB, 4 * units.MIB):
            target.write(offset, bytes([offset >> 22 | 1]) * (4 * units.MIB))
            if offset == 20 * units.MIB:
                target.flush()
    report = check.check(path)
    assert report.clean
    assert report.allocated_clusters == 40 * units.MIB // 512
    with image.Image.open(path) as opened:
        assert opened.header.refcount_table_clusters > 1


def test_tables_are_written_back_when_they_take_too_much_memory(
    path: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_TABLES_MAX", 16 * 512)
    path = tmp_path / "small-clusters"
    create.create(path, size_bytes=4 * units.MIB, cluster_size=512)
    target = writer.Writer.open(path)
    target.write(0, b"1" * (4 * units.MIB))
    target.abandon()
    assert content(path).count(b"1") > 3 * units.MIB
    report = check.check(path)
    assert report.corruptions == 0
    repair.repair_leaks(path)
    assert check.check(path).clean


def test_refcounts_beyond_the_file_s_end_are_passed_over(path: pathlib.Path) -> None:
    with path.open("r+b") as file:
        file.seek(2 * CLUSTER + 2 * 5)
        file.write(b"\0\1")
    with writer.Writer.open(path) as target:
        target.write(0, b"1" * (4 * CLUSTER))
    assert check.check(path).corruptions == 0
    assert repair.repair_leaks(path) == 1
    assert content(path) == (b"1" * (4 * CLUSTER)).ljust(SIZE, b"\0")


def test_what_was_given_back_is_free_durably_once_the_writer_is_closed(path: pathlib.Path) -> None:
    with writer.Writer.open(path) as target:
        target.write(0, b"d" * (4 * CLUSTER))
    made: list[str] = []
    fsops.observe(None, lambda operation: made.append(operation.name))
    try:
        with writer.Writer.open(path) as target:
            target.write_zeroes(0, 2 * CLUSTER)
    finally:
        fsops.observe(None)
    assert made[-1] == "fdatasync"
    assert "pwrite" in made[made.index("fdatasync") : -1], "counters are lowered after the tables are durable"


def test_what_is_found_without_leaks_is_on_the_disk_and_not_only_in_memory(path: pathlib.Path) -> None:
    # Its writer may have died before a sync, or a sync may have failed and left pages that look clean.
    made: list[str] = []
    fsops.observe(None, lambda operation: made.append(operation.name))
    try:
        assert repair.repair_leaks(path) == 0
    finally:
        fsops.observe(None)
    assert made == ["fdatasync", "evict"]
