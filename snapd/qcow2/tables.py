"""L1 and L2 tables as arrays: read in bulk, cut into runs, judged, and turned into block maps.

Nothing here loops over clusters in Python; it loops over tables at most. An entry that can't be what its writer meant
is never taken for a hole. Knows nothing of caches, chains or writing. Source: qcow2 specification, "Cluster mapping".
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from snapd import blockmap, errors, units
from snapd.blockmap import Int64Array, UInt8Array
from snapd.qcow2 import compressed, layout
from snapd.qcow2.header import Header

_CHUNK_ENTRIES = 1 << 19
"""L2 entries cut at a time: 4 MiB, so that the passes over them stay in the processor's cache."""

UNALLOCATED = 0
"""Kind of an entry that refers to the backing file; the others are blockmap.Kind."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Runs of L2 entries that continue each other: the same empty entry, or host clusters in a row. Length n each."""

    index: Int64Array
    """Guest cluster of the first entry, ascending."""
    count: Int64Array
    """Entries, positive."""
    entry: Int64Array
    """The first entry as it is on disk."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What runs are. Arrays of the runs' length."""

    kind: UInt8Array
    """UNALLOCATED or a blockmap.Kind."""
    host: Int64Array
    """Offset in bytes of the first host cluster (of a zero cluster too, if it has one) or compressed byte; else 0."""
    length: Int64Array
    """Bytes of the file that the run takes; 0 if none."""
    bad: npt.NDArray[np.bool_]
    """Impossible: reserved bits, misaligned, past the end, on metadata."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Metadata:
    """Ranges of the file that no data may lie in: header and tables. Sorted by start."""

    start: Int64Array
    end: Int64Array

    @classmethod
    def of(cls, header: Header, l1: Int64Array, blocks: Int64Array) -> "Metadata":
        """Return the ranges of the header, its tables, the L2 tables of l1 and the refcount blocks, all in bytes."""
        size = header.cluster_size
        fixed = np.array([0, header.refcount_table_offset, header.l1_offset], np.int64)
        lengths = np.array([size, header.refcount_table_clusters * size, header.l1_size * layout.ENTRY_SIZE], np.int64)
        tables = np.concatenate((l1 & layout.OFFSET_MASK, blocks & layout.OFFSET_MASK))
        tables = tables[tables != 0]
        start = np.concatenate((fixed, tables))
        end = start + np.concatenate((lengths, np.full(len(tables), size, np.int64)))
        order = np.argsort(start, kind="stable")
        return cls(start[order], np.maximum.accumulate(end[order]))

    def meets(self, start: Int64Array, length: Int64Array) -> npt.NDArray[np.bool_]:
        """Say of each range whether metadata lies in it."""
        # The last metadata that begins before the range ends; the ends are accumulated, so none before reaches further.
        before = np.searchsorted(self.start, start + length, side="left") - 1
        return (before >= 0) & (self.end[before] > start)


def read_table(fd: int, offset: int, entries: int, what: str) -> Int64Array:
    """Return a table of 64-bit entries. Raises errors.Corrupt, of `what`, if the file ends before it does."""
    table = np.empty(entries, ">i8")
    if os.preadv(fd, [table.view(np.uint8).data], offset) != table.nbytes:
        raise errors.Corrupt(what=what, problem=f"the file ends within the table at offset {offset}")
    return table.astype(np.int64)


def read_l1(fd: int, header: Header, file_size: int, what: str) -> tuple[Int64Array, Metadata]:
    """Return the L1 table as it is on disk, found sound, and where metadata lies. Raises errors.Corrupt, of `what`."""
    l1 = read_table(fd, header.l1_offset, header.l1_size, what)
    bad = bad_pointers(l1, header, file_size)
    if bad.any():
        raise errors.Corrupt(what=what, problem=f"impossible L1 entry {int(bad.argmax())}")
    entries = header.refcount_table_clusters * header.pointers_per_cluster
    blocks = read_table(fd, header.refcount_table_offset, entries, what)
    offsets = l1[l1 != 0] & layout.OFFSET_MASK
    others = Metadata.of(header, l1[:0], blocks)
    if others.meets(offsets, np.full(len(offsets), header.cluster_size, np.int64)).any():
        raise errors.Corrupt(what=what, problem="an L2 table lies on other metadata")
    return l1, Metadata.of(header, l1, blocks)


def bad_pointers(entries: Int64Array, header: Header, file_size: int) -> npt.NDArray[np.bool_]:
    """Say of each L1 entry whether it is impossible as the place of an L2 table."""
    offset = entries & layout.OFFSET_MASK
    used = entries != 0
    bad: npt.NDArray[np.bool_] = used & (
        ((entries & layout.L1_RESERVED) != 0)
        | ((offset & (header.cluster_size - 1)) != 0)
        | (offset < header.cluster_size)
        | (offset > file_size - header.cluster_size)
    )
    return bad


def runs(fd: int, header: Header, l1: Int64Array, first: int, count: int, what: str) -> Iterator[Runs]:
    """Yield the runs of guest clusters [first, first + count) that have L2 tables, some tables at a time.

    l1 is the whole L1 table, its entries found sound. Raises errors.Corrupt, of `what`, for a table that is cut short.
    """
    per_table = header.table_entries
    last_table = units.divide_up(first + count, per_table)
    step = max(1, _CHUNK_ENTRIES // per_table)
    for base in range(first // per_table, last_table, step):
        tables = base + np.flatnonzero(l1[base : min(base + step, last_table)])
        if len(tables) == 0:
            continue
        guest = tables * per_table
        low = np.maximum(guest, first)
        high = np.minimum(guest + per_table, first + count)
        where = (l1[tables] & layout.OFFSET_MASK) + (low - guest) * layout.ENTRY_SIZE
        position = np.concatenate((np.zeros(1, np.int64), np.cumsum(high - low)))
        raw = np.empty(int(position[-1]), ">i8")
        _read_pieces(fd, raw.view(np.uint8), where, position * layout.ENTRY_SIZE, what)
        entries = raw.astype(np.int64)
        heads = cut(entries, header.cluster_size, position[1:-1])
        table = np.searchsorted(position, heads, side="right") - 1
        yield Runs(low[table] + heads - position[table], np.diff(heads, append=len(entries)), entries[heads])


def _read_pieces(fd: int, target: npt.NDArray[np.uint8], where: Int64Array, position: Int64Array, what: str) -> None:
    """Read the pieces of the file at `where` into target[position[i]:position[i + 1]], neighbours in one go."""
    apart = np.flatnonzero(where[1:] != where[:-1] + np.diff(position)[:-1]) + 1
    firsts = [0, *apart.tolist()]
    for first, last in zip(firsts, [*firsts[1:], len(where)], strict=True):
        piece = target[position[first] : position[last]]
        if os.preadv(fd, [piece.data], int(where[first])) != len(piece):
            raise errors.Corrupt(what=what, problem=f"the file ends within the L2 table at offset {where[first]}")


def cut(entries: Int64Array, cluster_size: int, table_starts: Int64Array) -> Int64Array:
    """Return the positions at which runs begin: at 0, at table_starts, and wherever an entry doesn't continue another.

    Within a run of host clusters only the first entry need be judged: the flags can't change on the way unless the
    offset overflows, which takes more clusters than a file that holds the run's end can have.
    """
    if len(entries) == 0:
        return np.empty(0, np.int64)
    before = entries[:-1]
    step = entries[1:] - before
    empty = before.view(np.uint64) <= layout.ZERO
    continues = ((step == cluster_size) & ~empty) | ((step == 0) & empty)
    continues[table_starts - 1] = False
    heads = _heads(continues)
    if (entries[heads] & layout.COMPRESSED).any():
        continues &= (before & layout.COMPRESSED) == 0
        heads = _heads(continues)
    return heads


def _heads(continues: npt.NDArray[np.bool_]) -> Int64Array:
    return np.concatenate((np.zeros(1, np.int64), np.flatnonzero(~continues) + 1))


def judge(found: Runs, header: Header, file_size: int, metadata: Metadata) -> Judged:
    """Say what runs are and whether they are possible in a file of file_size bytes.

    A data cluster may be cut short by the end of the file: its missing bytes are zeros, as with QEMU.
    """
    entry, size = found.entry, header.cluster_size
    is_compressed = (entry & layout.COMPRESSED) != 0
    is_zero = ((entry & layout.ZERO) != 0) & ~is_compressed
    offset = entry & layout.OFFSET_MASK
    reserved = layout.L2_RESERVED | (layout.ZERO if header.version == 2 else 0)
    bad = (
        ((entry & reserved) != 0)
        | ((offset & (size - 1)) != 0)
        | ((entry < 0) & (offset == 0))
        | ((offset != 0) & (offset > units.round_up(file_size, size) - found.count * size))
    )
    length = np.where(offset != 0, found.count * size, 0)
    kind = np.where(is_zero, np.uint8(blockmap.Kind.ZERO), np.uint8(blockmap.Kind.DATA))
    kind[entry == 0] = UNALLOCATED
    if is_compressed.any():
        packed = entry[is_compressed]
        kind[is_compressed] = blockmap.Kind.COMPRESSED
        offset[is_compressed] = compressed.offsets(packed, header.cluster_bits)
        length[is_compressed] = compressed.lengths(packed, header.cluster_bits)
        end = units.round_up(file_size, units.SECTOR)
        bad[is_compressed] = (packed < 0) | (offset[is_compressed] > end - length[is_compressed])
    # Ranges that were found bad may have overflowed, so they are not looked up.
    bad |= (length > 0) & metadata.meets(np.where(bad, 0, offset), np.where(bad, 0, length))
    return Judged(kind, offset, length, bad)


def to_block_map(found: Runs, judged: Judged, cluster_size: int) -> blockmap.BlockMap:
    """Return the extents of runs; those that are unallocated leave no extent."""
    held = np.flatnonzero(judged.kind != UNALLOCATED)
    kind = judged.kind[held]
    host = np.where(kind == blockmap.Kind.DATA, judged.host[held], np.int64(-1))
    host = np.where(kind == blockmap.Kind.COMPRESSED, found.entry[held], host)
    return blockmap.BlockMap(
        found.index[held] * cluster_size, found.count[held] * cluster_size, kind, host, np.zeros(len(held), np.int32)
    )


def concatenated(maps: list[blockmap.BlockMap]) -> blockmap.BlockMap:
    """Return maps of successive ranges as one."""
    if not maps:
        return blockmap.empty()
    joined = blockmap.BlockMap(
        np.concatenate([each.start for each in maps]),
        np.concatenate([each.length for each in maps]),
        np.concatenate([each.kind for each in maps]),
        np.concatenate([each.host for each in maps]),
        np.concatenate([each.layer for each in maps]),
    )
    return blockmap.coalesce(joined)
