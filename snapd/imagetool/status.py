"""What the ranges of a disk are, as `qemu-img map` tells it: the depth in the chain, the flags and the place of each.

Made a window at a time, so that memory doesn't grow with the disk, and joined across windows. Source: the documentation
of `qemu-img map` and what QEMU 7.2 answers.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from snapd import blockmap, units
from snapd.blockmap import BlockMap, Int32Array, Int64Array, Kind, UInt8Array
from snapd.imagetool.holes import Holes
from snapd.qcow2.format import layout
from snapd.qcow2.reading import tables
from snapd.qcow2.reading.image import Image

PRESENT: Final = 1
"""A layer of the chain says what is there, be it zeros."""
ZERO: Final = 2
"""It reads as zeros."""
DATA: Final = 4
"""It has a place in a file, which is read."""
COMPRESSED: Final = 8

_FLAGS: Final = np.zeros(256, np.uint8)
_FLAGS[[tables.UNALLOCATED, Kind.ZERO, Kind.DATA, Kind.COMPRESSED]] = (
    ZERO, PRESENT | ZERO, PRESENT | DATA, PRESENT | DATA | COMPRESSED,
)  # fmt: skip
"""Flags by the kind of an extent."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Ranges that follow each other without gaps. All arrays have the same length."""

    start: Int64Array
    """Guest offset in bytes."""
    length: Int64Array
    """Bytes, positive."""
    depth: Int32Array
    """The image that answers for it: 0 is the top of the chain."""
    flags: UInt8Array
    """PRESENT, ZERO, DATA, COMPRESSED."""
    offset: Int64Array
    """Of the first byte in that image's file; -1 if it has no place there, or a compressed one."""

    def __len__(self) -> int:
        return len(self.start)

    def part(self, index: slice | Int64Array) -> "Ranges":
        """Return the ranges that an index selects."""
        return Ranges(self.start[index], self.length[index], self.depth[index], self.flags[index], self.offset[index])


def ranges(images: Sequence[Image]) -> Iterator[Ranges]:
    """Yield the ranges of the disk that a chain shows, joined as far as they go, some at a time.

    The images are open, the top first. Raises errors.Corrupt.
    """
    files = [Holes(image) for image in images]
    held: Ranges | None = None
    for start, length in _windows(images):
        found = _ranges(_window(images, start, length), files)
        joined = _joined(found if held is None else _concatenated(held, found))
        # The last may go on in the next window.
        held = joined.part(slice(len(joined) - 1, None))
        yield joined.part(slice(len(joined) - 1))
    if held is not None:
        yield held


def _windows(images: Sequence[Image]) -> Iterator[tuple[int, int]]:
    """Yield the windows of a chain's disk. What no image has a table for is one window, however long it is."""
    size = images[0].size_bytes
    span = min(image.window_span for image in images)
    tables_at = [_mapped(image) for image in images]
    start = 0
    while start < size:
        mapped = min(_next_mapped(starts, reach, start, size) for starts, reach in tables_at)
        length = min(span if mapped == start else mapped - start, size - start)
        yield start, length
        start += length


def _mapped(image: Image) -> tuple[Int64Array, int]:
    """Return where the L2 tables of an image begin to map its disk, ascending, and how many bytes each maps."""
    l1, _ = image.l1_and_metadata()
    reach = image.header.table_entries * image.cluster_size
    # Beyond the disk's end an L1 table has nothing to say, and its products could be too large.
    count = units.divide_up(image.size_bytes, reach)
    return np.flatnonzero(l1[:count]).astype(np.int64) * reach, reach


def _next_mapped(starts: Int64Array, reach: int, offset: int, end: int) -> int:
    """Return the first place at or behind an offset that a table maps, or the end."""
    index = int(np.searchsorted(starts, offset, side="right"))
    if index > 0 and offset - int(starts[index - 1]) < reach:
        return offset
    return min(int(starts[index]), end) if index < len(starts) else end


def granule(images: Sequence[Image]) -> int:
    """Return how many bytes of a chain's disk a range has at least, the last one aside."""
    return min(image.cluster_size // (layout.SUBCLUSTERS if image.header.extended_l2 else 1) for image in images)


def _window(images: Sequence[Image], start: int, length: int) -> BlockMap:
    """Return what a chain shows within a window: extents without gaps, of a blockmap.Kind or tables.UNALLOCATED.

    Where no layer says anything, the one answers at which the search ends: the last, or the last before one that is too
    short to be asked.
    """
    end = start + length
    seen = blockmap.empty()
    for depth, image in enumerate(images):
        end = min(end, image.size_bytes)
        if end <= start or seen.total() == length:
            break
        own = image.block_map(start, end - start, places=True).on_layer(depth)
        below = images[depth + 1].size_bytes if depth + 1 < len(images) else 0
        absent = own.kind == tables.UNALLOCATED
        if absent.any():
            answering = blockmap.clip(own.take(absent), below, max(end - below, 0))
            own = blockmap.overlay(answering, own.take(~absent))
        if below < end:
            own = _without_gaps(own, max(start, below), end, depth)
        seen = blockmap.overlay(own, seen)
    return seen


def _without_gaps(extents: BlockMap, start: int, end: int, depth: int) -> BlockMap:
    """Return extents with what is absent from [start, end) as extents too."""
    begin = np.concatenate((np.array([start], np.int64), np.maximum(extents.end, start)))
    finish = np.concatenate((extents.start, np.array([end], np.int64)))
    gaps = np.flatnonzero(finish > begin)
    if len(gaps) == 0:
        return extents
    size = finish[gaps] - begin[gaps]
    # Each gap lies before the extent of its number.
    return BlockMap(
        np.insert(extents.start, gaps, begin[gaps]),
        np.insert(extents.length, gaps, size),
        np.insert(extents.kind, gaps, tables.UNALLOCATED),
        np.insert(extents.host, gaps, -1),
        np.insert(extents.layer, gaps, depth),
    )


def _ranges(extents: BlockMap, files: Sequence[Holes]) -> Ranges:
    """Return extents in QEMU's terms; data in a hole of its file is cut out, and flagged as ZERO too."""
    found = Ranges(
        extents.start,
        extents.length,
        extents.layer,
        _FLAGS[extents.kind],
        np.where(extents.kind == Kind.COMPRESSED, np.int64(-1), extents.host),
    )
    for depth, holes in enumerate(files):
        if len(holes.bounds()):
            found = _cut_at(found, depth, holes.bounds())
    return found


def _cut_at(found: Ranges, depth: int, bounds: Int64Array) -> Ranges:
    """Cut data of one image where holes of its file begin and end, and flag what lies in them."""
    data = ((found.flags & DATA) != 0) & (found.offset >= 0) & (found.depth == depth)
    first = np.searchsorted(bounds, found.offset, side="right")
    last = np.searchsorted(bounds, found.offset + found.length, side="left")
    pieces = np.where(data, last - first + 1, 1)
    source = np.repeat(np.arange(len(found)), pieces)
    number = np.arange(len(source)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    cut = found.part(source)
    # Piece n of a range begins at the range's start, or at the n-th bound within it.
    bound = np.minimum(first[source] + number, len(bounds)) - 1
    shift = np.where(number > 0, bounds[np.maximum(bound, 0)] - cut.offset, 0)
    following = np.append(number[1:] > 0, False)
    length = np.where(following, np.append(shift[1:], 0), cut.length) - shift
    in_hole = data[source] & ((first[source] + number) % 2 == 1)
    return Ranges(
        cut.start + shift,
        length,
        cut.depth,
        np.where(in_hole, cut.flags | np.uint8(ZERO), cut.flags),
        np.where(cut.offset >= 0, cut.offset + shift, np.int64(-1)),
    )


def _concatenated(one: Ranges, other: Ranges) -> Ranges:
    return Ranges(
        np.concatenate((one.start, other.start)),
        np.concatenate((one.length, other.length)),
        np.concatenate((one.depth, other.depth)),
        np.concatenate((one.flags, other.flags)),
        np.concatenate((one.offset, other.offset)),
    )


def _joined(found: Ranges) -> Ranges:
    """Join neighbours that QEMU tells as one: equal in all, and in a row in the file if they have a place there."""
    if len(found) < 2:
        return found
    placed = found.offset >= 0
    in_a_row = found.offset[1:] == found.offset[:-1] + found.length[:-1]
    joined = (
        (found.flags[1:] == found.flags[:-1])
        & (found.depth[1:] == found.depth[:-1])
        & np.where(placed[:-1], in_a_row, ~placed[1:])
    )
    first = np.flatnonzero(np.concatenate((np.ones(1, np.bool_), ~joined)))
    return dataclasses.replace(found.part(first), length=np.add.reduceat(found.length, first))
