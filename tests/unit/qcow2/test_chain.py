import concurrent.futures
import pathlib
import random

import pytest

from snapd import blockmap, errors, units
from snapd.blockmap import Kind
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, writer

CLUSTER = 65536


def make(path: pathlib.Path, size: int, writes: dict[int, bytes]) -> image.Image:
    create.create(path, size_bytes=size)
    with writer.Writer.open(path) as target:
        for offset, data in writes.items():
            target.write(offset, data)
    return image.Image.open(path)


def read(view: chain.Chain, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xaa" * length)
    view.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_what_a_disk_lost_when_it_shrank_stays_lost_when_it_grows(tmp_path: pathlib.Path) -> None:
    bottom = make(tmp_path / "0", 8 * CLUSTER, {0: b"b" * (8 * CLUSTER)})
    middle = make(tmp_path / "1", 2 * CLUSTER + 512, {0: b"m" * 512 + bytes(CLUSTER - 512)})
    top = make(tmp_path / "2", 6 * CLUSTER, {5 * CLUSTER: b"t" * CLUSTER})
    with bottom, middle, top:
        view = chain.Chain([top, middle, bottom])
        expected = b"m" * 512 + bytes(CLUSTER - 512) + b"b" * (CLUSTER + 512)
        expected = expected.ljust(5 * CLUSTER, b"\0") + b"t" * CLUSTER
        assert read(view, 0, 6 * CLUSTER) == expected
        found = view.block_map(0, 6 * CLUSTER)
        assert found.layer.tolist() == [1, 2, 0]
        assert found.length.tolist() == [CLUSTER, CLUSTER + 512, CLUSTER]


def test_reading_past_the_end_is_out_of_range(tmp_path: pathlib.Path) -> None:
    with make(tmp_path / "0", CLUSTER, {}) as only:
        view = chain.Chain([only])
        assert read(view, CLUSTER, 0) == b""
        with pytest.raises(errors.OutOfRange):
            read(view, CLUSTER - 512, 1024)
        with pytest.raises(errors.OutOfRange):
            read(view, -512, 512)


def test_a_map_made_once_serves_many_reads(tmp_path: pathlib.Path) -> None:
    data = random.Random(1).randbytes(3 * CLUSTER)
    with make(tmp_path / "0", 8 * CLUSTER, {CLUSTER: data}) as only:
        view = chain.Chain([only])
        extents = view.block_map(0, 8 * CLUSTER)
        whole = data.rjust(4 * CLUSTER, b"\0").ljust(8 * CLUSTER, b"\0")
        for offset in range(0, 8 * CLUSTER, 40_960):
            buffer = bytearray(min(40_960, 8 * CLUSTER - offset))
            view.read_extents_into(extents, offset, memoryview(buffer))
            assert buffer == whole[offset : offset + len(buffer)]


def test_many_threads_read_one_chain(tmp_path: pathlib.Path) -> None:
    data = random.Random(2).randbytes(64 * CLUSTER)
    with make(tmp_path / "0", 64 * CLUSTER, {0: data}) as bottom, make(tmp_path / "1", 64 * CLUSTER, {}) as top:
        view = chain.Chain([top, bottom])
        offsets = [random.Random(seed).randrange(0, 63 * CLUSTER) for seed in range(200)]
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            for offset, found in zip(offsets, threads.map(lambda at: read(view, at, CLUSTER), offsets), strict=True):
                assert found == data[offset : offset + CLUSTER]


def test_zeros_of_an_overlay_hide_what_lies_below(tmp_path: pathlib.Path) -> None:
    with make(tmp_path / "0", 4 * CLUSTER, {0: b"b" * (4 * CLUSTER)}) as bottom:
        create.create(tmp_path / "1", size_bytes=4 * CLUSTER, backing_name="0")
        with writer.Writer.open(tmp_path / "1", chain.Chain([bottom])) as target:
            target.write_zeroes(CLUSTER, CLUSTER)
        with image.Image.open(tmp_path / "1") as top:
            own = top.block_map(0, 4 * CLUSTER)
            assert own.kind.tolist() == [Kind.ZERO]
            assert own.start.tolist() == [CLUSTER]
            assert chain.Chain([top, bottom]).block_map(0, units.TIB).total(blockmap.Kind.DATA) == 3 * CLUSTER


def test_disks_of_small_clusters_are_mapped_in_small_windows(tmp_path: pathlib.Path) -> None:
    create.create(tmp_path / "small", size_bytes=units.GIB, cluster_size=512)
    with make(tmp_path / "large", units.GIB, {}) as large, image.Image.open(tmp_path / "small") as small:
        assert large.window_span == blockmap.WINDOW
        assert small.window_span == chain.Chain([large, small]).window_span == 256 * units.MIB
