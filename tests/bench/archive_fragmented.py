"""Memory while a volume of 1 TiB in 2,097,152 extents is archived, and the time that it takes.

Every cluster is mapped. Most of their data are holes of the image file: blocks that have to be planned, read and found
to be zeros. In an eighth of the extents one page of 4 KiB holds bytes of its own, spread so that each page of the
archive's tree has entries: a sixteenth of all blocks are stored. A terabyte of data would take hours.
"""

import concurrent.futures
import os
import pathlib
import time
from collections.abc import Iterator

import numpy as np

from snapd import units
from tests.bench import capture, figures, images, rig

GOAL_BYTES = 256 * units.MIB
_EXTENT = 8 * images.CLUSTER
_EVERY = 8
"""One extent in so many holds something."""
_PAGE = 4 * units.KIB
_PIECE = 4 * units.MIB
_SAMPLE = 16
"""The bare reading reads one part in so many of the file."""


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty and on the disk that is measured."""
    size = 4 * units.GIB if quick else units.TIB
    state = folder / "state"
    with rig.running_on(state) as daemon:
        daemon.create_environment("bench")
        daemon.create_volume("bench", size)
    head = capture.head_of(state, "disk")
    head.unlink()
    extents = images.make_mapped(head, size, _EXTENT)
    held = _fill(head, size)
    what = f"{units.format_size(size)} in {extents:,} extents, {held:,} of which hold data"
    with rig.running_on(state) as daemon:
        idle = daemon.peak_bytes()
        sample = daemon.snapshot("bench", "first")
        peak = daemon.peak_bytes()
        (frozen,) = (path for path in daemon.pool_files() if path.stat().st_size > size)
        alone = _read_alone(frozen, size)
    yield figures.Figure(
        f"peak memory of the daemon archiving {what}",
        peak / units.MIB,
        f"the goal (idle: {units.format_size(idle)})",
        GOAL_BYTES / units.MIB,
        "MiB",
        1.0,
    )
    yield figures.Figure(
        f"first archive of {what}",
        sample.seconds,
        f"reading the file alone (1/{_SAMPLE} of it, scaled)",
        alone,
        "s",
        None,
    )


def _fill(path: pathlib.Path, size_bytes: int) -> int:
    """Give every so manieth extent a page of bytes that no other has; return how many got one."""
    noise = np.random.default_rng(1).integers(1 << 62, size=_PAGE // 8, dtype=np.int64)
    with path.open("r+b", buffering=0) as file:
        # Data is all that follows the metadata.
        first = os.fstat(file.fileno()).st_size - size_bytes
        numbers = range(0, size_bytes // _EXTENT, _EVERY)
        for number in numbers:
            page = noise ^ (number * 0x9E3779B97F4A7C1 & (1 << 62) - 1)
            os.pwrite(file.fileno(), page.tobytes(), first + number * _EXTENT)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return len(numbers)


def _read_alone(path: pathlib.Path, size_bytes: int) -> float:
    """Read a part of the file's data with a thread for each processor; return what all of it takes in seconds."""
    threads = os.cpu_count() or 1
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        first = os.fstat(fd).st_size - size_bytes

        def work(thread: int) -> None:
            buffer = bytearray(_PIECE)
            for offset in range(thread * _PIECE, size_bytes // _SAMPLE, threads * _PIECE):
                os.preadv(fd, [buffer], first + offset)

        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(threads) as executor:
            list(executor.map(work, range(threads)))
        return (time.perf_counter() - begin) * _SAMPLE
