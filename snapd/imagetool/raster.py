"""The allocation of a disk as a grid of cells: how much of each cell's span is data, zeros, compressed or absent.

Knows nothing of how cells are drawn. Memory is that of the grid and of a window of ranges.
"""

import dataclasses
import enum
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from snapd import units
from snapd.blockmap import Int64Array, UInt8Array
from snapd.imagetool import status
from snapd.imagetool.status import Ranges

FloatArray = npt.NDArray[np.float64]


class Look(enum.IntEnum):
    """What people tell apart in a picture."""

    DATA = 0
    COMPRESSED = 1
    ZERO = 2
    PREALLOCATED = 3
    """Clusters are allocated, but they lie in a hole of the file, and read as zeros."""
    UNALLOCATED = 4


_LOOKS = np.full(16, Look.UNALLOCATED, np.uint8)
_LOOKS[status.PRESENT | status.DATA] = Look.DATA
_LOOKS[status.PRESENT | status.DATA | status.COMPRESSED] = Look.COMPRESSED
_LOOKS[status.PRESENT | status.ZERO] = Look.ZERO
_LOOKS[status.PRESENT | status.ZERO | status.DATA] = Look.PREALLOCATED
"""By the flags of status."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """A disk cut into equal cells."""

    size_bytes: int
    columns: int
    shares: FloatArray
    """Of each cell's span, by Look: one row for each cell, adding up to 1. Row-major; the last line may be short."""
    totals: tuple[int, ...]
    """Bytes of the disk by Look."""
    ranges: int
    """How many ranges the disk is in."""

    @property
    def cells(self) -> int:
        """Cells in the grid."""
        return len(self.shares)

    @property
    def rows(self) -> int:
        """Lines of cells."""
        return units.divide_up(self.cells, self.columns)

    def offset(self, cell: int) -> int:
        """Return the guest offset in bytes at which a cell begins."""
        return int(_edges(self.size_bytes, self.cells, cell, cell + 1)[0])


def draw(found: Iterable[Ranges], size_bytes: int, columns: int, rows_max: int, granule: int) -> Raster:
    """Return the grid of a disk: `columns` wide, and no higher than it takes for cells of at least granule bytes."""
    cells = max(1, min(columns * rows_max, units.divide_up(size_bytes, granule)))
    filled = np.zeros((cells, len(Look)))
    totals = np.zeros(len(Look), np.int64)
    count = 0
    for ranges in found:
        count += len(ranges)
        look = _LOOKS[ranges.flags]
        for each in Look:
            mine = np.flatnonzero(look == each)
            if len(mine):
                totals[each] += ranges.length[mine].sum()
                _fill(filled[:, each], ranges.start[mine], ranges.length[mine], size_bytes)
    spans = np.diff(_edges(size_bytes, cells, 0, cells + 1))
    shares = filled / np.maximum(spans, 1)[:, None]
    return Raster(size_bytes, columns, shares, tuple(totals.tolist()), count)


def _edges(size_bytes: int, cells: int, first: int, last: int) -> Int64Array:
    """Return the offsets at which cells [first, last) begin."""
    # Not number * size // cells: that product may have more than 63 bits.
    number = np.arange(first, last, dtype=np.int64)
    whole, rest = divmod(size_bytes, cells)
    return number * whole + number * rest // cells


def _fill(cells: FloatArray, start: Int64Array, length: Int64Array, size_bytes: int) -> None:
    """Add to each cell how many bytes of it the ranges take, which are sorted and apart from each other."""
    end = start + length
    first = max(_cell(int(start[0]), size_bytes, len(cells)) - 1, 0)
    last = min(_cell(int(end[-1]), size_bytes, len(cells)) + 2, len(cells))
    edges = _edges(size_bytes, len(cells), first, last + 1)
    # Bytes taken before each edge: all of the ranges that begin before it, less what of the last lies behind it.
    before = np.searchsorted(start, edges, side="left")
    taken = np.concatenate((np.zeros(1, np.int64), np.cumsum(length)))[before]
    taken -= np.maximum(end[np.maximum(before - 1, 0)] - edges, 0) * (before > 0)
    cells[first:last] += np.diff(taken)


def _cell(offset: int, size_bytes: int, cells: int) -> int:
    return offset * cells // max(size_bytes, 1)


def dominant(raster: Raster) -> UInt8Array:
    """Return for each cell the Look that takes the most of it, any content before none at all."""
    weighted = raster.shares.copy()
    # A trace of data in a large empty cell is what one looks for.
    weighted[:, Look.UNALLOCATED] = np.where(weighted[:, : Look.UNALLOCATED].any(axis=1), 0, 1)
    found: UInt8Array = weighted.argmax(axis=1).astype(np.uint8)
    return found
