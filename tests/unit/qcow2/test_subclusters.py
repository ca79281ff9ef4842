"""Small writes to images with extended L2 entries take a part of a cluster, and the rest shows what it showed."""

import pathlib
from collections.abc import Iterator

import pytest

from snapd import fsops
from snapd.blockmap import Kind
from snapd.qcow2.checking import check
from snapd.qcow2.format import layout
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, subclusters, writer

CLUSTER = 65536
PART = CLUSTER // 32
SIZE = 32 * CLUSTER
PAGE = 4096


@pytest.fixture
def below(tmp_path: pathlib.Path) -> Iterator[chain.Chain]:
    create.create(tmp_path / "bottom", size_bytes=SIZE)
    with writer.Writer.open(tmp_path / "bottom") as target:
        target.write(0, b"b" * SIZE)
    with image.Image.open(tmp_path / "bottom") as bottom:
        yield chain.Chain([bottom])


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "top"
    create.create(path, size_bytes=SIZE, extended_l2=True, backing_name="bottom")
    return path


def content(path: pathlib.Path, below: chain.Chain) -> bytes:
    with image.Image.open(path) as top:
        buffer = bytearray(SIZE)
        chain.Chain([top, *below.images]).read_into(0, memoryview(buffer))
        return bytes(buffer)


def extents(path: pathlib.Path) -> list[tuple[int, int, int]]:
    """Return (start, length, kind) of what the file itself holds."""
    with image.Image.open(path) as top:
        found = top.block_map(0, SIZE)
        return list(zip(found.start.tolist(), found.length.tolist(), found.kind.tolist(), strict=True))


def written(path: pathlib.Path, below: chain.Chain, offset: int, data: bytes) -> int:
    """Write and return how many bytes went to the file before the flush."""
    operations: list[fsops.Operation] = []
    with writer.Writer.open(path, below) as target:
        fsops.observe(operations.append)
        try:
            target.write(offset, data)
        finally:
            fsops.observe(None)
    return sum(operation.length for operation in operations)


def test_a_page_in_an_overlay_does_not_copy_its_cluster(path: pathlib.Path, below: chain.Chain) -> None:
    assert written(path, below, 5 * CLUSTER + PAGE, b"t" * PAGE) == PAGE
    assert extents(path) == [(5 * CLUSTER + PAGE, PAGE, Kind.DATA)]
    wanted = bytearray(b"b" * SIZE)
    wanted[5 * CLUSTER + PAGE : 5 * CLUSTER + 2 * PAGE] = b"t" * PAGE
    assert content(path, below) == wanted
    assert check.check(path).clean


def test_less_than_a_subcluster_copies_the_rest_of_that_subcluster(path: pathlib.Path, below: chain.Chain) -> None:
    assert written(path, below, 512, b"t" * 512) == PART
    assert written(path, below, 1024, b"u" * 512) == 512
    assert content(path, below)[:2048] == b"b" * 512 + b"t" * 512 + b"u" * 512 + b"b" * 512
    assert extents(path) == [(0, PART, Kind.DATA)]


def test_a_cluster_is_filled_in_its_own_place(path: pathlib.Path, below: chain.Chain) -> None:
    written(path, below, 3 * PART, b"t" * PART)
    end = path.stat().st_size
    written(path, below, 0, b"u" * CLUSTER)
    assert path.stat().st_size <= end + CLUSTER
    assert content(path, below)[:CLUSTER] == b"u" * CLUSTER
    report = check.check(path)
    assert report.clean
    assert report.allocated_clusters == 1


def test_zeroing_subclusters_takes_no_place_and_zeroing_all_gives_it_back(
    path: pathlib.Path, below: chain.Chain
) -> None:
    with writer.Writer.open(path, below) as target:
        target.write_zeroes(PART, 2 * PART)
    assert check.check(path).allocated_clusters == 0
    assert extents(path) == [(PART, 2 * PART, Kind.ZERO)]
    written(path, below, PART, b"t" * PART)
    assert extents(path) == [(PART, PART, Kind.DATA), (2 * PART, PART, Kind.ZERO)]
    with writer.Writer.open(path, below) as target:
        target.write_zeroes(PART, PART)
    assert extents(path) == [(PART, 2 * PART, Kind.ZERO)]
    assert check.check(path).allocated_clusters == 0
    assert content(path, below)[:CLUSTER] == b"b" * PART + bytes(2 * PART) + b"b" * (29 * PART)


def test_hiding_the_backing_leaves_what_is_there(path: pathlib.Path, below: chain.Chain) -> None:
    with writer.Writer.open(path, below) as target:
        target.write(CLUSTER + PART, b"t" * PART)
        target.hide_backing(512, 3 * CLUSTER - 512)
    wanted = bytearray(b"b" * SIZE)
    wanted[512 : 3 * CLUSTER] = bytes(3 * CLUSTER - 512)
    wanted[CLUSTER + PART : CLUSTER + 2 * PART] = b"t" * PART
    assert content(path, below) == wanted
    assert check.check(path).clean


def test_marking_subclusters_moves_them_between_the_halves_of_the_bitmap() -> None:
    bitmap = subclusters.marked(0, 0, 32, allocated=False)
    assert bitmap == layout.SUBCLUSTERS_ZERO
    bitmap = subclusters.marked(bitmap, 31, 32, allocated=True)
    assert [subclusters.is_allocated(bitmap, number) for number in (30, 31)] == [False, True]
    assert [subclusters.reads_zero(bitmap, number) for number in (30, 31)] == [True, False]
    assert subclusters.marked(bitmap, 0, 32, allocated=True) == layout.SUBCLUSTERS_ALLOCATED
