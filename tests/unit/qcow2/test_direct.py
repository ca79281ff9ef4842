"""Reading past the page cache: the same bytes as by it, whatever is aligned and whatever isn't; and it stays empty."""

import ctypes
import mmap
import os
import pathlib
import random

import pytest

from snapd import direct, units
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, writer

SIZE = units.MIB


@pytest.fixture(params=[512, 4 * units.KIB, 64 * units.KIB])
def path(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    """Give an image with clusters of a size, written in an order that isn't the disk's, and cut in its last cluster."""
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=SIZE, cluster_size=request.param)
    chance = random.Random(request.param)
    with writer.Writer.open(path) as target:
        for offset in chance.sample(range(0, SIZE, 128 * units.KIB), 6):
            target.write(offset, chance.randbytes(chance.choice((units.KIB, 50 * units.KIB, 100 * units.KIB))))
    return path


@pytest.mark.parametrize("seed", [1, random.SystemRandom().getrandbits(32)], ids=["fixed", "fresh"])
def test_reads_past_the_cache_give_what_reads_by_it_give(path: pathlib.Path, seed: int) -> None:
    chance = random.Random(seed)
    memory = direct.buffer(SIZE)
    with image.Image.open(path) as plain, image.Image.open(path, past_cache=True) as past:
        usual, unusual = chain.Chain([plain]), chain.Chain([past])
        for _ in range(20):
            unit = chance.choice((1, 512, 4096, 65536))
            offset = chance.randrange(0, SIZE // unit) * unit
            length = chance.randrange(0, (SIZE - offset) // unit + 1) * unit
            place = chance.choice((0, 512, 4096, 7))
            length = min(length, SIZE - max(offset, place))
            expected = bytearray(length)
            usual.read_into(offset, memoryview(expected))
            target = memory[place : place + length]
            target[:] = b"?" * length
            unusual.read_into(offset, target)
            assert target == expected, f"{length} bytes at {offset} into {place}"


def test_a_file_that_ends_within_its_last_cluster_goes_on_with_zeros(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.qcow2"
    data = random.Random(1).randbytes(64 * units.KIB)
    create.create(path, size_bytes=64 * units.KIB)
    with writer.Writer.open(path) as target:
        target.write(0, data)
    os.truncate(path, path.stat().st_size - 10_000)
    memory = direct.buffer(len(data))
    memory[:] = b"?" * len(data)
    with image.Image.open(path, past_cache=True) as past:
        chain.Chain([past]).read_into(0, memory)
    assert memory == data[:-10_000] + bytes(10_000)


def test_what_was_read_past_the_cache_is_not_in_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.qcow2"
    data = random.Random(2).randbytes(16 * units.MIB)
    create.create(path, size_bytes=len(data))
    with writer.Writer.open(path) as target:
        target.write(0, data)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        memory = direct.buffer(len(data))
        with image.Image.open(path, past_cache=True) as past:
            opened = direct.reopen(file.fileno())
            if opened is None:
                pytest.skip("the file system of the temporary folder has no O_DIRECT")
            os.close(opened)
            chain.Chain([past]).read_into(0, memory)
        assert memory == data
        # The tables are in it, and what was read ahead with them.
        assert _resident_bytes(file.fileno(), path.stat().st_size) < len(data) // 4


def test_a_file_that_can_not_be_opened_again_is_read_by_the_cache() -> None:
    read_end, write_end = os.pipe()
    try:
        os.close(write_end)
        assert direct.reopen(write_end) is None
    finally:
        os.close(read_end)


def _resident_bytes(fd: int, length: int) -> int:
    """Return how much of a file is in the page cache (mincore)."""
    with mmap.mmap(fd, length, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        states = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
        # Writable, so that its address can be had; private, so that nothing is written.
        first = ctypes.c_char.from_buffer(mapped)
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(length), states)
        del first
        assert result == 0, os.strerror(ctypes.get_errno())
        return sum(state & 1 for state in states) * mmap.PAGESIZE
