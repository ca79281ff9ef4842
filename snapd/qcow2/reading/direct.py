"""Reading past the page cache (O_DIRECT), for whoever reads much once and must not crowd out what others keep there.

It also saves the pages their making and their copying: of 4.2 GB read once by two processors (a virtual machine,
Linux 6.18, ext4), 4.4 to 8.0 s of the processors' time against 0.3 s. Nothing is read ahead for such a reader; it needs
some threads more than processors. Knows nothing of images.
"""

import mmap
import os
from typing import Final

import numpy as np

from snapd import units
from snapd.blockmap import Int64Array

LEAST: Final = 64 * units.KIB
"""Bytes that are worth a trip to the device of their own; for fewer it is better to have the kernel read ahead."""

_ALIGNMENT: Final = 4096
"""What place, length and memory must be multiples of. Few devices ask for less than 512 and none known for more."""


def buffer(length: int) -> memoryview:
    """Return zeroed memory that can be read into past the page cache."""
    return memoryview(mmap.mmap(-1, length))


def reopen(fd: int) -> int | None:
    """Return another descriptor of an open file, to read past the page cache; None if its file system has no such way.

    It is the very same file, whatever its path leads to by now, and closing it gives up no lock of the first one.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        # No /proc, or no O_DIRECT: not a fault. The file itself is open, and what ails it shows when it is read.
        return None


def fits(memory: memoryview, places: Int64Array, starts: Int64Array, lengths: Int64Array) -> bool:
    """Say whether reads from places of a file to starts within memory, all int64 and in bytes, are aligned for it."""
    address = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    return not ((places | (starts + address) | lengths) & (_ALIGNMENT - 1)).any()
