"""Block maps: which ranges of a disk hold data, read as zeros, or are absent, as numpy arrays of extents.

A map is sorted, its extents are disjoint and none is empty; what no extent covers is absent, which in an overlay means
that the layer below is to be asked. Nothing here loops over extents in Python: a fragmented terabyte has millions.

Maps of large disks are made and used a window of guest addresses at a time (`windows`), so that memory does
not grow with the disk. All offsets and lengths are bytes.
"""

import dataclasses
import enum
import struct
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from snapd import errors, units

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
UInt8Array = npt.NDArray[np.uint8]

WINDOW: Final = 32 * units.GIB
"""Span of guest addresses mapped at a time: at most 524,288 extents with clusters of 64 KiB, 15 MB of arrays."""
_WINDOW_EXTENTS: Final = 1 << 19


class Kind(enum.IntEnum):
    """What an extent holds."""

    ZERO = 1
    """It reads as zeros, whatever lies below."""
    DATA = 2
    """Its bytes lie at `host` in the file of `layer`, or, in a delta, somewhere."""
    COMPRESSED = 3
    """One compressed cluster; `host` is the L2 entry that describes it (qcow2 specification, "Cluster mapping")."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BlockMap:
    """Extents of a disk. All arrays have the same length n."""

    start: Int64Array
    """Guest offset in bytes, ascending."""
    length: Int64Array
    """Bytes, positive."""
    kind: UInt8Array
    """A Kind."""
    host: Int64Array
    """DATA: offset of the first byte in the layer's file. COMPRESSED: the L2 entry. Otherwise, or unknown: -1."""
    layer: Int32Array
    """Which file of a chain holds it: 0 is the top, then downwards."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def end(self) -> Int64Array:
        """Guest offsets of the first byte after each extent."""
        return self.start + self.length

    def total(self, kind: Kind | None = None) -> int:
        """Return how many bytes the extents cover, or those of one kind."""
        lengths = self.length if kind is None else self.length[self.kind == kind]
        return int(lengths.sum())

    def take(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "BlockMap":
        """Return the extents that an ascending index or a mask selects."""
        return BlockMap(self.start[index], self.length[index], self.kind[index], self.host[index], self.layer[index])

    def on_layer(self, layer: int) -> "BlockMap":
        """Return the map with every extent attributed to one file of a chain."""
        return dataclasses.replace(self, layer=np.full(len(self), layer, np.int32))

    def without_location(self) -> "BlockMap":
        """Return the map as a delta: what is there, and not where. Runs are joined."""
        kind = np.where(self.kind == Kind.ZERO, np.uint8(Kind.ZERO), np.uint8(Kind.DATA))
        n = len(self)
        return coalesce(BlockMap(self.start, self.length, kind, np.full(n, -1, np.int64), np.zeros(n, np.int32)))


def empty() -> BlockMap:
    """Return the map of nothing."""
    none = np.empty(0, np.int64)
    return BlockMap(none, none, np.empty(0, np.uint8), none, np.empty(0, np.int32))


def single(start: int, length: int, kind: Kind, host: int = -1) -> BlockMap:
    """Return a map of one extent; of none if length is 0."""
    if length == 0:
        return empty()
    return BlockMap(
        np.array([start], np.int64),
        np.array([length], np.int64),
        np.array([kind], np.uint8),
        np.array([host], np.int64),
        np.zeros(1, np.int32),
    )


def span_for(granule: int) -> int:
    """Return the span of windows of a disk whose extents can be as short as granule bytes."""
    return min(WINDOW, _WINDOW_EXTENTS * granule)


def windows(size_bytes: int, span: int = WINDOW) -> Iterator[tuple[int, int]]:
    """Yield (start, length) of the windows that make up a disk."""
    for start in range(0, size_bytes, span):
        yield start, min(span, size_bytes - start)


def coalesce(extents: BlockMap) -> BlockMap:
    """Join neighbours that continue each other: same kind and layer, and adjacent in the file too if they have data."""
    if len(extents) < 2:
        return extents
    start, length, kind, host = extents.start, extents.length, extents.kind, extents.host
    # Few do, mostly: two cheap looks pick those of which the rest is asked.
    candidates = (host[1:] - length[:-1] == host[:-1]) | (host[1:] < 0)
    candidates &= start[1:] - length[:-1] == start[:-1]
    later = np.flatnonzero(candidates) + 1
    before = later - 1
    joined = later[
        ((host[later] < 0) == (host[before] < 0))
        & (kind[later] == kind[before])
        & (kind[later] != Kind.COMPRESSED)
        & (extents.layer[later] == extents.layer[before])
    ]
    if len(joined) == 0:
        return extents
    is_first = np.ones(len(start), np.bool_)
    is_first[joined] = False
    first = np.flatnonzero(is_first)
    merged = extents.take(first)
    return dataclasses.replace(merged, length=np.add.reduceat(length, first))


def _pieces(extents: BlockMap, cuts: Int64Array, index: npt.NDArray[np.intp], which: npt.NDArray[np.bool_]) -> BlockMap:
    """Return the pieces [cuts[i], cuts[i+1]) for which `which` holds, cut from extents[index[i]]."""
    source = index[which]
    start = cuts[:-1][which]
    kind = extents.kind[source]
    host = extents.host[source]
    moves = (host >= 0) & (kind != Kind.COMPRESSED)
    host = np.where(moves, host + (start - extents.start[source]), host)
    return BlockMap(start, cuts[1:][which] - start, kind, host, extents.layer[source])


def _cover(extents: BlockMap, cuts: Int64Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return for each piece between cuts the extent that may hold it, and whether it does."""
    index = np.searchsorted(extents.start, cuts[:-1], side="right") - 1
    if len(extents) == 0:
        return index, np.zeros(len(index), np.bool_)
    held = (index >= 0) & (cuts[:-1] < extents.end[index])
    return index, held


def _cuts(*maps: BlockMap) -> Int64Array:
    return np.unique(np.concatenate([array for extents in maps for array in (extents.start, extents.end)]))


def clip(extents: BlockMap, start: int, length: int) -> BlockMap:
    """Return what lies within [start, start + length). A compressed cluster is kept whole in `host`, cut in length."""
    # By the starts alone, since adding up all the ends would cost more than the rest for a small part of a large map.
    first = max(int(np.searchsorted(extents.start, start, side="right")) - 1, 0)
    if first < len(extents) and extents.start[first] + extents.length[first] <= start:
        first += 1
    last = int(np.searchsorted(extents.start, start + length, side="left"))
    if last <= first or length == 0:
        return empty()
    part = extents if last - first == len(extents) else extents.take(np.arange(first, last))
    if part.start[0] >= start and part.end[-1] <= start + length:
        return part
    begin = np.maximum(part.start, start)
    finish = np.minimum(part.end, start + length)
    moves = (part.host >= 0) & (part.kind != Kind.COMPRESSED)
    host = np.where(moves, part.host + (begin - part.start), part.host)
    return BlockMap(begin, finish - begin, part.kind, host, part.layer)


def overlay(lower: BlockMap, upper: BlockMap) -> BlockMap:
    """Return what one sees looking down: upper where it has something, else lower."""
    if len(upper) == 0:
        return lower
    if len(lower) == 0:
        return upper
    cuts = _cuts(lower, upper)
    upper_index, upper_held = _cover(upper, cuts)
    lower_index, lower_held = _cover(lower, cuts)
    above = _pieces(upper, cuts, upper_index, upper_held)
    below = _pieces(lower, cuts, lower_index, lower_held & ~upper_held)
    return coalesce(_merged(above, below))


def _merged(one: BlockMap, other: BlockMap) -> BlockMap:
    """Return the extents of two maps that don't overlap, in order."""
    start = np.concatenate((one.start, other.start))
    order = np.argsort(start, kind="stable")
    return BlockMap(
        start[order],
        np.concatenate((one.length, other.length))[order],
        np.concatenate((one.kind, other.kind))[order],
        np.concatenate((one.host, other.host))[order],
        np.concatenate((one.layer, other.layer))[order],
    )


def difference(extents: BlockMap, hole: BlockMap) -> BlockMap:
    """Return the parts of extents that hole does not cover."""
    if len(extents) == 0 or len(hole) == 0:
        return extents
    cuts = _cuts(extents, hole)
    index, held = _cover(extents, cuts)
    _, covered = _cover(hole, cuts)
    return coalesce(_pieces(extents, cuts, index, held & ~covered))


def intersection(extents: BlockMap, cover: BlockMap) -> BlockMap:
    """Return the parts of extents that cover covers too, with the kinds and places of extents."""
    if len(extents) == 0 or len(cover) == 0:
        return empty()
    cuts = _cuts(extents, cover)
    index, held = _cover(extents, cuts)
    _, covered = _cover(cover, cuts)
    return coalesce(_pieces(extents, cuts, index, held & covered))


def touched_blocks(extents: BlockMap, block_size: int) -> Int64Array:
    """Return the numbers of the blocks of block_size bytes that any extent touches, ascending, each once."""
    if len(extents) == 0:
        return np.empty(0, np.int64)
    first = extents.start // block_size
    last = (extents.end - 1) // block_size
    # Extents are sorted, so only a block that two neighbours share can come twice.
    first = np.maximum(first, np.concatenate(([first[0]], last[:-1] + 1)))
    count = np.maximum(last - first + 1, 0)
    offset = np.cumsum(count) - count
    return np.repeat(first - offset, count) + np.arange(int(count.sum()), dtype=np.int64)


# --- deltas at rest ---------------------------------------------------------------------------------------------------

_DELTA_HEADER = struct.Struct("<4sII")
_DELTA_MAGIC = b"DLT1"
_MOST_EXTENTS = 1 << 26


def encode_delta(extents: BlockMap) -> bytes:
    """Return a delta (kinds without places) as bytes: gaps, lengths and kinds, deflated."""
    delta = extents.without_location()
    gap = delta.start - np.concatenate((np.zeros(1, np.int64), delta.end[:-1]))[: len(delta)]
    body = gap.astype("<i8").tobytes() + delta.length.astype("<i8").tobytes() + delta.kind.tobytes()
    return _DELTA_HEADER.pack(_DELTA_MAGIC, len(delta), zlib.crc32(body)) + zlib.compress(body, 1)


def decode_delta(data: bytes) -> BlockMap:
    """Return the delta that encode_delta made into bytes. Raises errors.Corrupt if they are anything else."""
    if len(data) < _DELTA_HEADER.size:
        raise errors.Corrupt(what="delta map", problem="cut short")
    magic, count, checksum = _DELTA_HEADER.unpack_from(data)
    if magic != _DELTA_MAGIC or count > _MOST_EXTENTS:
        raise errors.Corrupt(what="delta map", problem="not a delta map")
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(data[_DELTA_HEADER.size :], 17 * count + 1)
    except zlib.error as error:
        raise errors.Corrupt(what="delta map", problem=str(error)) from error
    whole = inflater.eof and not inflater.unused_data and len(body) == 17 * count
    if not whole or zlib.crc32(body) != checksum:
        raise errors.Corrupt(what="delta map", problem="wrong length or checksum")
    gap = np.frombuffer(body, "<i8", count).astype(np.int64)
    length = np.frombuffer(body, "<i8", count, 8 * count).astype(np.int64)
    kind = np.frombuffer(body, np.uint8, count, 16 * count).copy()
    start = np.cumsum(gap + length) - length
    return BlockMap(start, length, kind, np.full(count, -1, np.int64), np.zeros(count, np.int32))
