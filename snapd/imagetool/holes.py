"""Which data of an image lies in holes of its file, and so reads as zeros though its clusters are allocated.

QEMU looks for that only in images whose metadata was preallocated, which it tells by more clusters being counted as
used than the file takes on the disk; so does this. Source: QEMU's qcow2 driver, detection of metadata preallocation.
"""

import os

import numpy as np

from snapd import fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2.format import counters, layout
from snapd.qcow2.reading import tables
from snapd.qcow2.reading.image import Image

_BLOCK = 512
"""Bytes of the unit in which the kernel counts a file's space."""
_BOUNDS_MAX = 1 << 20
"""Beginnings and ends of holes that are kept, 8 MiB; what lies beyond in the file counts as data."""


class Holes:
    """The holes of one image's file, looked up on first use."""

    def __init__(self, image: Image) -> None:
        """Borrow an open image."""
        self._image = image
        self._bounds: Int64Array | None = None

    def bounds(self) -> Int64Array:
        """Return offsets where a hole begins, ends, begins …, ascending; empty if the image isn't preallocated."""
        if self._bounds is None:
            with fsops.translated(self._image.path):
                preallocated = is_preallocated(self._image)
                self._bounds = _bounds(self._image.fileno()) if preallocated else np.empty(0, np.int64)
        return self._bounds


def is_preallocated(image: Image) -> bool:
    """Say whether notably more clusters are counted as used than the file takes on its disk."""
    status = os.fstat(image.fileno())
    real = status.st_blocks * _BLOCK // image.cluster_size
    threshold = max(real * 10 // 9, real + 2)
    end = units.divide_up(status.st_size, image.cluster_size)
    if end < threshold:
        return False
    header = image.header
    per_block = counters.per_block(header.refcount_order, header.cluster_bits)
    entries = header.refcount_table_clusters * header.pointers_per_cluster
    table = tables.read_table(image.fileno(), header.refcount_table_offset, entries, image.path.name)
    blocks = np.flatnonzero(table[: units.divide_up(end, per_block)])
    # Each block that counts anything takes space. So many more are an attack on whoever reads them all.
    if len(blocks) > real + 1:
        return False
    block = np.empty(header.cluster_size, np.uint8)
    used = 0
    for number in blocks.tolist():
        if os.preadv(image.fileno(), [block.data], int(table[number] & layout.OFFSET_MASK)) < len(block):
            return False
        used += int(np.count_nonzero(counters.unpack(block, header.refcount_order)[: end - number * per_block]))
        if used >= threshold:
            return True
    return False


def _bounds(fd: int) -> Int64Array:
    found: list[int] = []
    end = os.fstat(fd).st_size
    at = 0
    while at < end and len(found) < _BOUNDS_MAX:
        at = os.lseek(fd, at, os.SEEK_HOLE)
        found.append(at)
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            # ENXIO: nothing but a hole is left, and what lies behind the file's end reads as zeros too.
            break
        found.append(at)
    return np.array(found, np.int64)
