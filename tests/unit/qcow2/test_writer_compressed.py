"""Compressed clusters in an image that is written: where they lie, and how often each host cluster counts."""

import pathlib
import random

import pytest

from snapd import errors
from snapd.blockmap import Kind
from snapd.qcow2.checking import check
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, packing, writer

CLUSTER = 4096
SIZE = 512 * CLUSTER
TEXT = b"".join(random.Random(1).choices([random.Random(2).randbytes(9), b"so that", b"it shrinks"], k=SIZE))[:SIZE]


def content(path: pathlib.Path) -> bytes:
    with image.Image.open(path) as opened:
        buffer = bytearray(opened.size_bytes)
        chain.Chain([opened]).read_into(0, memoryview(buffer))
        return bytes(buffer)


@pytest.mark.parametrize("refcount_bits", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_no_refcount_gets_beyond_its_width(tmp_path: pathlib.Path, refcount_bits: int, compression: str) -> None:
    path = tmp_path / "disk"
    create.create(path, size_bytes=SIZE, cluster_size=CLUSTER, refcount_bits=refcount_bits, compression=compression)
    with writer.Writer.open(path) as target:
        target.write_compressed(0, TEXT)
    assert content(path) == TEXT
    report = check.check(path)
    assert report.clean
    assert report.compressed_clusters == SIZE // CLUSTER
    if refcount_bits == 1:
        assert path.stat().st_size > SIZE
    if refcount_bits >= 4:
        assert path.stat().st_size < SIZE // 3


def test_clusters_that_are_replaced_give_their_place_back(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk"
    create.create(path, size_bytes=SIZE, cluster_size=CLUSTER)
    with writer.Writer.open(path) as target:
        target.write_compressed(0, TEXT)
        target.flush()
        for offset in range(0, SIZE, 2 * CLUSTER):
            target.write_compressed(offset, TEXT[:CLUSTER])
        target.write_zeroes(SIZE // 2, SIZE // 2)
        target.flush()
        target.write_compressed(0, TEXT[: SIZE // 2])
    assert content(path) == TEXT[: SIZE // 2].ljust(SIZE, b"\0")
    report = check.check(path)
    assert report.clean
    assert report.compressed_clusters == SIZE // CLUSTER // 2


def test_zeros_take_no_place_and_what_does_not_shrink_is_stored_as_it_is(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk"
    create.create(path, size_bytes=8 * CLUSTER + 512, cluster_size=CLUSTER)
    noise = random.Random(4).randbytes(2 * CLUSTER)
    data = TEXT[:CLUSTER] + bytes(2 * CLUSTER) + noise + TEXT[: 3 * CLUSTER] + noise[:512]
    with writer.Writer.open(path) as target:
        target.write_compressed(0, data)
    assert content(path) == data
    with image.Image.open(path) as opened:
        found = opened.block_map(0, 8 * CLUSTER)
        assert found.total(Kind.DATA) == 2 * CLUSTER
        assert found.total(Kind.COMPRESSED) == 4 * CLUSTER
        assert len(opened.block_map(CLUSTER, 2 * CLUSTER)) == 0


def test_a_stream_is_kept_only_if_it_is_shorter() -> None:
    noise = random.Random(5).randbytes(CLUSTER)
    packed = packing.pack(noise + bytes(CLUSTER) + TEXT[:100], CLUSTER, 0)
    assert packed[0] is None
    assert packed[1] == packing.ZERO
    assert packed[2] is not None
    assert 0 < len(packed[2]) < 200


def test_ranges_that_are_not_whole_clusters_are_refused(tmp_path: pathlib.Path) -> None:
    create.create(tmp_path / "disk", size_bytes=SIZE, cluster_size=CLUSTER)
    with writer.Writer.open(tmp_path / "disk") as target:
        for offset, length in ((512, CLUSTER), (0, 512)):
            with pytest.raises(errors.InvalidField, match="whole clusters"):
                target.write_compressed(offset, bytes(length))
