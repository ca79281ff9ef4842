import pathlib
import random
import tracemalloc
import zlib

import pytest
import zstandard

from snapd import errors, units
from snapd.qcow2.format import layout
from snapd.qcow2.reading import compressed

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


def read(folder: pathlib.Path, packed: bytes, compression_type: int, offset: int = 700) -> bytes:
    path = folder / "file"
    path.write_bytes(b"?" * offset + packed + b"?" * 600)
    sectors = (offset + len(packed) - 1) // 512 - offset // 512
    entry = layout.COMPRESSED | sectors << (62 - (CLUSTER_BITS - 8)) | offset
    with path.open("rb") as file:
        return compressed.read(file.fileno(), "file", entry, CLUSTER_BITS, compression_type)


@pytest.mark.parametrize("offset", [0, 1, 511, 512, 70_000])
def test_a_cluster_comes_back_whatever_surrounds_it(tmp_path: pathlib.Path, offset: int) -> None:
    data = random.Random(1).randbytes(CLUSTER // 2) * 2
    assert read(tmp_path, deflate(data), layout.COMPRESSION_DEFLATE, offset) == data
    assert read(tmp_path, zstandard.compress(data), layout.COMPRESSION_ZSTD, offset) == data


@pytest.mark.parametrize("size", [CLUSTER + 1, 64 * units.MIB])
def test_a_stream_that_goes_on_beyond_its_cluster_is_damage_in_little_memory(tmp_path: pathlib.Path, size: int) -> None:
    bomb = bytes(size)
    streams = {
        "goes on beyond 65536 bytes": deflate(bomb),
        f"declares {size} bytes": zstandard.compress(bomb),
        "did not decompress full frame": zstandard.ZstdCompressor(write_content_size=False).compress(bomb),
    }
    del bomb
    for problem, packed in streams.items():
        kind = layout.COMPRESSION_DEFLATE if "goes on" in problem else layout.COMPRESSION_ZSTD
        tracemalloc.start()
        with pytest.raises(errors.Corrupt, match=problem):
            read(tmp_path, packed, kind)
        assert tracemalloc.get_traced_memory()[1] < units.MIB
        tracemalloc.stop()


def test_a_frame_that_declares_more_than_there_is_takes_no_memory_for_it(tmp_path: pathlib.Path) -> None:
    frame = bytearray(zstandard.compress(bytes(256 * units.MIB)))
    # The content size takes the last four bytes of the frame's header: magic, descriptor, window, size.
    assert zstandard.frame_content_size(frame) == 256 * units.MIB
    frame[6:10] = (0xFFFF_FFF0).to_bytes(4, "little")
    with pytest.raises(errors.Corrupt, match="declares 4294967280 bytes"):
        read(tmp_path, bytes(frame), layout.COMPRESSION_ZSTD)


def test_a_frame_without_a_declared_size_is_read(tmp_path: pathlib.Path) -> None:
    data = random.Random(1).randbytes(CLUSTER // 2) * 2
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(data)
    assert read(tmp_path, unsized, layout.COMPRESSION_ZSTD) == data


def test_a_frame_that_asks_for_a_huge_window_is_damage(tmp_path: pathlib.Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = packer.compress(random.Random(2).randbytes(CLUSTER)) + packer.flush()
    with pytest.raises(errors.Corrupt):
        read(tmp_path, frame, layout.COMPRESSION_ZSTD)


@pytest.mark.parametrize("kind", [layout.COMPRESSION_DEFLATE, layout.COMPRESSION_ZSTD])
def test_garbage_and_short_streams_are_damage(tmp_path: pathlib.Path, kind: int) -> None:
    pack = deflate if kind == layout.COMPRESSION_DEFLATE else zstandard.compress
    for packed in (b"\xff" * 300, pack(bytes(CLUSTER - 1)), pack(random.Random(3).randbytes(CLUSTER))[:5000]):
        with pytest.raises(errors.Corrupt):
            read(tmp_path, packed, kind)
