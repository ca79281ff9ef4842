"""What the processors need for an archive's bytes alone: read, hashed and compressed, with nothing around it.

Each thread has every so manieth block. The second variant also writes what it made to packs of 32 MiB and fsyncs them.
"""

import concurrent.futures
import os
import pathlib

import blake3
import zstandard

from snapd import units
from tests.bench import disks

BLOCK = 256 * units.KIB
_PACK = 32 * units.MIB
_THREADS = os.cpu_count() or 1


def run(disk: pathlib.Path, packs: pathlib.Path | None = None) -> int:
    """Hash (BLAKE3, keyed) and compress (zstd, level 1) a raw disk's data; return how many bytes that left.

    With a folder, which must be there, they are also written to files in it and are durable on return.
    """
    numbers = disks.data_blocks(disk, BLOCK)
    fd = os.open(disk, os.O_RDONLY)
    try:
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as executor:
            sizes = executor.map(lambda thread: _work(fd, numbers[thread::_THREADS], thread, packs), range(_THREADS))
            stored = sum(sizes)
    finally:
        os.close(fd)
    if packs is not None:
        _sync(packs)
    assert stored > 0
    return stored


def _work(fd: int, numbers: list[int], thread: int, packs: pathlib.Path | None) -> int:
    compressor = zstandard.ZstdCompressor(level=1)
    key = bytes(32)
    stored = held = count = 0
    pack: int | None = None
    for number in numbers:
        data = os.pread(fd, BLOCK, number * BLOCK)
        blake3.blake3(data, key=key).digest()
        compressed = compressor.compress(data)
        stored += len(compressed)
        if packs is None:
            continue
        if pack is None:
            pack = os.open(packs / f"{thread}-{count}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            held, count = 0, count + 1
        held += os.write(pack, compressed)
        if held >= _PACK:
            os.fsync(pack)
            os.close(pack)
            pack = None
    if pack is not None:
        os.fsync(pack)
        os.close(pack)
    return stored


def _sync(folder: pathlib.Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
