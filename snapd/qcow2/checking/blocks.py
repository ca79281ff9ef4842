"""The refcounts that a file has: its table and blocks as they are, damaged or not, for any range of clusters.

Judges the table as `qemu-img check` does. Source: qcow2 specification, "Host cluster management".
"""

import numpy as np

from snapd import errors, units
from snapd.blockmap import Int64Array, UInt8Array
from snapd.qcow2.format import counters
from snapd.qcow2.format.header import Header
from snapd.qcow2.reading import pieces

_ABSENT = -1
_UNREADABLE = -2
_RESERVED = 0x1FF
_BYTES_MAX = 16 * units.GIB
"""Of blocks that hold something, counted as often as the table names them."""


class Blocks:
    """Reads refcounts of an open image. Borrows the descriptor."""

    def __init__(self, fd: int, header: Header, file_size: int) -> None:
        """Read the table. Raises errors.ImageRefused for more blocks than are bounded work."""
        self._fd = fd
        self._size = header.cluster_size
        self.order = header.refcount_order
        self.maximum = counters.maximum(header.refcount_order)
        """The highest refcount that there can be."""
        self.per_block = counters.per_block(header.refcount_order, header.cluster_bits)
        """Counters of one block."""
        raw = pieces.read(
            fd, np.array([header.refcount_table_offset], np.int64), header.refcount_table_clusters * self._size
        )
        table = raw.view(">i8").astype(np.int64)
        table = table[: int(np.flatnonzero(table)[-1]) + 1] if table.any() else table[:0]
        offset = table & ~_RESERVED
        reserved = (table & _RESERVED) != 0
        # Negative ones lie beyond 2**63.
        misaligned = ((offset & (self._size - 1)) != 0) | (offset < 0)
        outside = offset >= units.round_up(file_size, self._size)
        self.corruptions = int((reserved | misaligned | outside).sum())
        """Entries of the table that are impossible."""
        used = np.flatnonzero((offset != 0) & ~(reserved | misaligned | outside))
        self.clusters: Int64Array = offset[used] >> header.cluster_bits
        """Where the blocks are that are possible."""
        place = np.where((offset == 0) | outside, _ABSENT, offset)
        place[misaligned] = _UNREADABLE
        present = np.flatnonzero(place >= 0)
        order = present[np.argsort(place[present], kind="stable")]
        place[order[pieces.in_holes(fd, place[order], self._size)]] = _ABSENT
        if int((place != _ABSENT).sum()) * self._size > _BYTES_MAX:
            raise errors.ImageRefused(problem=f"refcount blocks of more than {_BYTES_MAX} bytes")
        self._place = place

    def raw(self, first: int, last: int) -> UInt8Array | None:
        """Return the bytes of the blocks first to last - 1; None if they hold nothing but zeros."""
        place = self._place[first:last]
        held = np.flatnonzero(place >= 0)
        if len(held) == 0:
            return None
        if len(held) == last - first:
            return pieces.read(self._fd, place, self._size)
        data = np.zeros((last - first, self._size), np.uint8)
        data[held] = pieces.read(self._fd, place[held], self._size).reshape(-1, self._size)
        return data.reshape(-1)

    def place(self, number: int) -> int:
        """Return the offset of a block that holds something, in bytes; a negative number if there is none."""
        return int(self._place[number]) if number < len(self._place) else _ABSENT

    def held(self, first: int) -> Int64Array:
        """Return the numbers of the blocks from there on that hold something."""
        return first + np.flatnonzero(self._place[first:] >= 0)

    def unreadable(self, first: int, last: int) -> Int64Array:
        """Return which of the blocks first to last - 1 can't be read."""
        return first + np.flatnonzero(self._place[first:last] == _UNREADABLE)

    def ones(self, clusters: Int64Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Say of each of a few clusters, anywhere, whether its refcount is one."""
        result = np.zeros(len(clusters), np.bool_)
        numbers = clusters // self.per_block
        for number in np.unique(numbers).tolist():
            if (data := self.raw(number, number + 1)) is not None:
                here = numbers == number
                result[here] = counters.unpack(data, self.order)[clusters[here] - number * self.per_block] == 1
        return result
