"""Pieces of a file read in bulk: equal lengths, anywhere, whatever lies behind the file's end being zeros.

Knows nothing of what the pieces hold. QEMU reads past the end of a file in the same way.
"""

import errno
import os

import numpy as np
import numpy.typing as npt

from snapd.blockmap import Int64Array, UInt8Array

BoolArray = npt.NDArray[np.bool_]


def read(fd: int, offsets: Int64Array, length: int) -> UInt8Array:
    """Return the pieces of `length` bytes at these offsets one behind the other, neighbours read in one go."""
    data = np.empty(len(offsets) * length, np.uint8)
    if len(offsets) == 0:
        return data
    apart = np.flatnonzero(np.diff(offsets) != length) + 1
    firsts = [0, *apart.tolist()]
    for first, last in zip(firsts, [*firsts[1:], len(offsets)], strict=True):
        _fill(fd, data[first * length : last * length], int(offsets[first]))
    return data


def _fill(fd: int, target: UInt8Array, offset: int) -> None:
    done = 0
    while done < len(target):
        got = os.preadv(fd, [target[done:].data], offset + done)
        if got == 0:
            target[done:] = 0
            return
        done += got


def in_holes(fd: int, offsets: Int64Array, length: int) -> BoolArray:
    """Say of each piece, ascending by offset, whether the file system knows that it holds nothing but zeros.

    It is asked once for each stretch of data at most, so that a sparse file of terabytes costs no more than what was
    really written to it.
    """
    empty = np.zeros(len(offsets), np.bool_)
    at = 0
    while at < len(offsets):
        try:
            data = os.lseek(fd, int(offsets[at]), os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            empty[at:] = True
            break
        behind = max(at, int(np.searchsorted(offsets, data - length, side="right")))
        empty[at:behind] = True
        hole = os.lseek(fd, data, os.SEEK_HOLE)
        at = max(behind, int(np.searchsorted(offsets, hole)))
    return empty
