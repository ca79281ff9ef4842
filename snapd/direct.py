"""Files past the page cache (O_DIRECT), for whoever moves much once and must not crowd out what others keep there.

It also saves the pages their making and their copying. Of 4.2 GB read once by two processors (a virtual machine, Linux
6.18, ext4), 4.4 to 8.0 s of the processors' time against 0.3 s; and as much was written and synced in 2.1 to 2.7 s
against 12.6 s, since the kernel by itself lets the disk begin late. Nothing is read ahead or written behind for such a
caller; it needs some threads more than processors. Knows nothing of images.
"""

import errno
import mmap
import os
from typing import Final

import numpy as np
import numpy.typing as npt

from snapd import fsops, units

LEAST: Final = 64 * units.KIB
"""Bytes that are worth a trip to the device of their own; for fewer it is better to have the kernel collect them."""

_ALIGNMENT: Final = 4096
"""What place, length and memory must be multiples of. Few devices ask for less than 512 and none known for more."""


def buffer(length: int) -> memoryview:
    """Return zeroed memory that can be read into, and written from, past the page cache."""
    return memoryview(mmap.mmap(-1, length))


def reopen(fd: int, access: int = os.O_RDONLY) -> int | None:
    """Return another descriptor of an open file, past the page cache; None if its file system has no such way.

    It is the very same file, whatever its path leads to by now, and closing it gives up no lock of the first one.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", access | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        # No /proc, or no O_DIRECT: not a fault. The file itself is open, and what ails it shows when it is used.
        return None


def fits(
    memory: memoryview, places: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> bool:
    """Say whether reads from places of a file to starts within memory, all in bytes, are aligned for it."""
    return not ((places | (starts + _address(memory)) | lengths) & (_ALIGNMENT - 1)).any()


class Output:
    """An open file that is written past the page cache as far as place and memory allow for it. For one thread.

    What is written so is as little durable as what is written otherwise, until the file is synced.
    """

    def __init__(self, fd: int) -> None:
        """Borrow a descriptor that is open for writing."""
        self._fd = fd
        self._direct_fd = reopen(fd, os.O_RDWR)

    def pwrite(self, data: memoryview, offset: int) -> None:
        """Write all of data, bytes, at offset. Raises OSError."""
        done = 0
        length = units.round_down(len(data), _ALIGNMENT)
        if self._direct_fd is not None and length >= LEAST and not (_address(data) | offset) % _ALIGNMENT:
            try:
                fsops.pwrite(self._direct_fd, data[:length], offset)
                done = length
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # A device that asks for more, or a write that was cut short where it can't go on: all of it once more.
                self.close()
        if done < len(data):
            fsops.pwrite(self._fd, data[done:], offset + done)

    def close(self) -> None:
        """Let go of what was opened; the borrowed descriptor stays. Closing twice does nothing."""
        if self._direct_fd is not None:
            os.close(self._direct_fd)
            self._direct_fd = None


def _address(memory: memoryview) -> int:
    return int(np.frombuffer(memory, np.uint8).__array_interface__["data"][0])
