"""L1 and L2 tables as arrays: read in bulk, cut into runs, judged, and turned into block maps.

Nothing here loops over clusters in Python; it loops over tables at most. An entry that can't be what its writer meant
is never taken for a hole. Knows nothing of caches, chains or writing. Source: qcow2 specification, "Cluster mapping".
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from snapd import blockmap, errors, units
from snapd.blockmap import Int64Array, UInt8Array
from snapd.qcow2.format import layout
from snapd.qcow2.format.header import Header
from snapd.qcow2.reading import compressed

Ranges = Sequence[tuple[int, int]]
"""(offset, length) in bytes of parts of the file."""

_CHUNK_WORDS = 1 << 16
"""Words of L2 tables cut at a time: 512 KiB, so that the passes over them stay in the cache of one core."""

UNALLOCATED = 0
"""Kind of an entry that refers to the backing file; the others are blockmap.Kind, or MIXED."""
MIXED = 4
"""Kind of an extended entry whose subclusters differ."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Runs of L2 entries that continue each other: the same empty entry, or host clusters in a row. Length n each.

    Extended entries continue each other only if the subclusters of all of them are alike: allocated, zero or neither.
    """

    index: Int64Array
    """Guest cluster of the first entry, ascending."""
    count: Int64Array
    """Entries, positive."""
    entry: Int64Array
    """The first entry as it is on disk."""
    bitmap: Int64Array
    """The first entry's subclusters as they are on disk (specification, "Extended L2 Entries"); 0 for standard ones."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What runs are. Arrays of the runs' length."""

    kind: UInt8Array
    """UNALLOCATED, MIXED or a blockmap.Kind."""
    host: Int64Array
    """Offset in bytes of the first host cluster, whatever the kind, if the run has one, or compressed byte; else 0."""
    length: Int64Array
    """Bytes of the file that the run takes; 0 if none."""
    bad: npt.NDArray[np.bool_]
    """Impossible: reserved bits, misaligned, past the end, on metadata, subclusters that contradict themselves."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Metadata:
    """Ranges of the file that no data may lie in: header and tables. Sorted by start."""

    start: Int64Array
    end: Int64Array

    @classmethod
    def of(cls, header: Header, l1: Int64Array, blocks: Int64Array, others: Ranges = ()) -> "Metadata":
        """Return the ranges of the header, its tables, the L2 tables of l1, the refcount blocks and others."""
        size = header.cluster_size
        ranges = [
            (0, size),
            (header.refcount_table_offset, header.refcount_table_clusters * size),
            (header.l1_offset, header.l1_size * layout.ENTRY_SIZE),
            *others,
        ]
        fixed, lengths = np.array([each for each in ranges if each[1]], np.int64).T
        tables = np.concatenate((l1 & layout.OFFSET_MASK, blocks & layout.OFFSET_MASK))
        tables = tables[tables != 0]
        start = np.concatenate((fixed, tables))
        end = start + np.concatenate((lengths, np.full(len(tables), size, np.int64)))
        order = np.argsort(start, kind="stable")
        return cls(start[order], np.maximum.accumulate(end[order]))

    def meets(self, start: Int64Array, length: Int64Array) -> npt.NDArray[np.bool_]:
        """Say of each range whether metadata lies in it."""
        if len(start) == 0:
            return np.empty(0, np.bool_)
        end = start + length
        # Most ranges lie close together and far from all metadata; the ends of metadata are accumulated, so ascending.
        low = int(np.searchsorted(self.end, start.min(), side="right"))
        high = int(np.searchsorted(self.start, end.max(), side="left"))
        if low >= high:
            return np.zeros(len(start), np.bool_)
        # The last metadata that begins before the range ends: none before reaches further.
        before = np.searchsorted(self.start[low:high], end, side="left") - 1
        return (before >= 0) & (self.end[low:high][before] > start)


def read_table(fd: int, offset: int, entries: int, what: str) -> Int64Array:
    """Return a table of 64-bit entries. Raises errors.Corrupt, of `what`, if the file ends before it does."""
    table = np.empty(entries, ">i8")
    if os.preadv(fd, [table.view(np.uint8).data], offset) != table.nbytes:
        raise errors.Corrupt(what=what, problem=f"the file ends within the table at offset {offset}")
    return table.astype(np.int64)


def read_l1(fd: int, header: Header, file_size: int, what: str, others: Ranges = ()) -> tuple[Int64Array, Metadata]:
    """Return the L1 table as it is on disk, found sound, and where metadata lies, with others that the caller knows.

    Raises errors.Corrupt, of `what`.
    """
    l1 = read_table(fd, header.l1_offset, header.l1_size, what)
    bad = bad_pointers(l1, header, file_size)
    if bad.any():
        raise errors.Corrupt(what=what, problem=f"impossible L1 entry {int(bad.argmax())}")
    entries = header.refcount_table_clusters * header.pointers_per_cluster
    blocks = read_table(fd, header.refcount_table_offset, entries, what)
    bad = (blocks & ~layout.OFFSET_MASK != 0) | bad_pointers(blocks, header, file_size)
    if bad.any():
        raise errors.Corrupt(what=what, problem=f"impossible refcount table entry {int(bad.argmax())}")
    none = l1[:0]
    for name, entries_in_use, fixed in (
        ("a refcount block", blocks[blocks != 0], Metadata.of(header, none, none, others)),
        ("an L2 table", l1[l1 != 0], Metadata.of(header, none, blocks, others)),
    ):
        offsets = entries_in_use & layout.OFFSET_MASK
        if fixed.meets(offsets, np.full(len(offsets), header.cluster_size, np.int64)).any():
            raise errors.Corrupt(what=what, problem=f"{name} lies on other metadata")
    return l1, Metadata.of(header, l1, blocks, others)


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
    per_table, entry_size = header.table_entries, header.entry_size
    first_table = first // per_table
    present = first_table + np.flatnonzero(l1[first_table : units.divide_up(first + count, per_table)])
    step = max(1, min(_CHUNK_WORDS // header.pointers_per_cluster, len(present)))
    # Used for every chunk: the kernel clears what is allocated anew, which takes longer than all else here.
    raw, words = np.empty((2, step * header.pointers_per_cluster), np.int64)
    for base in range(0, len(present), step):
        tables = present[base : base + step]
        guest = tables * per_table
        low = np.maximum(guest, first)
        high = np.minimum(guest + per_table, first + count)
        where = (l1[tables] & layout.OFFSET_MASK) + (low - guest) * entry_size
        position = np.concatenate((np.zeros(1, np.int64), np.cumsum(high - low)))
        size = int(position[-1]) * entry_size
        _read_pieces(fd, raw.view(np.uint8)[:size], where, position * entry_size, what)
        chunk = words[: size // layout.ENTRY_SIZE]
        chunk[:] = raw.view(">i8")[: len(chunk)]
        found = runs_of(chunk, header, position[1:-1], raw)
        table = np.searchsorted(position, found.index, side="right") - 1
        yield dataclasses.replace(found, index=low[table] + found.index - position[table])


def _read_pieces(fd: int, target: npt.NDArray[np.uint8], where: Int64Array, position: Int64Array, what: str) -> None:
    """Read the pieces of the file at `where` into target[position[i]:position[i + 1]], neighbours in one go."""
    apart = np.flatnonzero(where[1:] != where[:-1] + np.diff(position)[:-1]) + 1
    firsts = [0, *apart.tolist()]
    for first, last in zip(firsts, [*firsts[1:], len(where)], strict=True):
        piece = target[position[first] : position[last]]
        if os.preadv(fd, [piece.data], int(where[first])) != len(piece):
            raise errors.Corrupt(what=what, problem=f"the file ends within the L2 table at offset {where[first]}")


def runs_of(words: Int64Array, header: Header, table_starts: Int64Array, scratch: Int64Array | None = None) -> Runs:
    """Return the runs in the words of L2 tables as they are on disk, their index counted in entries from the first.

    Runs end before table_starts, the positions (in entries) at which further tables begin. What is in scratch, as many
    words at least, is lost.
    """
    if not header.extended_l2:
        heads = cut(words, header.cluster_size, table_starts, scratch)
        return Runs(heads, np.diff(heads, append=len(words)), words[heads], np.zeros(len(heads), np.int64))
    entries, bitmaps = words[0::2], words[1::2]
    heads = _cut_extended(entries, bitmaps, header.cluster_size, table_starts)
    return Runs(heads, np.diff(heads, append=len(entries)), entries[heads], bitmaps[heads])


def cut(
    entries: Int64Array, cluster_size: int, table_starts: Int64Array, scratch: Int64Array | None = None
) -> Int64Array:
    """Return the positions at which runs begin: at 0, at table_starts, and wherever an entry doesn't continue another.

    Within a run of host clusters only the first entry need be judged: the flags can't change on the way unless the
    offset overflows, which takes more clusters than a file that holds the run's end can have.
    """
    if len(entries) == 0:
        return np.empty(0, np.int64)
    before = entries[:-1]
    expected = np.add(before, cluster_size, out=None if scratch is None else scratch[: len(before)])
    np.copyto(expected, before, where=before.view(np.uint64) <= layout.ZERO)
    breaks = entries[1:] != expected
    breaks[table_starts - 1] = True
    heads = _heads(breaks)
    if (entries[heads] & layout.COMPRESSED).any():
        breaks |= (before & layout.COMPRESSED) != 0
        heads = _heads(breaks)
    return heads


def _cut_extended(entries: Int64Array, bitmaps: Int64Array, cluster_size: int, table_starts: Int64Array) -> Int64Array:
    """Return what `cut` does, of extended entries. Only clusters of one kind of subclusters continue each other."""
    if len(entries) == 0:
        return np.empty(0, np.int64)
    before, bitmap = entries[:-1], bitmaps[:-1]
    uniform = (bitmap == layout.SUBCLUSTERS_ALLOCATED) | (bitmap == layout.SUBCLUSTERS_ZERO) | (bitmap == 0)
    in_a_row = entries[1:] - before == np.where(before == 0, 0, cluster_size)
    breaks = ~(in_a_row & uniform & (bitmaps[1:] == bitmap) & ((before & layout.COMPRESSED) == 0))
    breaks[table_starts - 1] = True
    return _heads(breaks)


def _heads(breaks: npt.NDArray[np.bool_]) -> Int64Array:
    """Return where runs begin, if breaks[i] says that entry i + 1 doesn't continue entry i."""
    return np.concatenate((np.zeros(1, np.int64), np.flatnonzero(breaks) + 1))


def judge(found: Runs, header: Header, file_size: int, metadata: Metadata) -> Judged:
    """Say what runs are and whether they are possible in a file of file_size bytes.

    A data cluster may be cut short by the end of the file: its missing bytes are zeros, as with QEMU.
    """
    entry, size = found.entry, header.cluster_size
    is_compressed = (entry & layout.COMPRESSED) != 0
    is_zero = ((entry & layout.ZERO) != 0) & ~is_compressed
    offset = entry & layout.OFFSET_MASK
    reserved = layout.L2_RESERVED | (layout.ZERO if header.version == 2 or header.extended_l2 else 0)
    bad = (
        ((entry & reserved) != 0)
        | ((offset & (size - 1)) != 0)
        | ((entry < 0) & (offset == 0))
        | ((offset != 0) & (offset > units.round_up(file_size, size) - found.count * size))
    )
    length = np.where(offset != 0, found.count * size, 0)
    kind = np.where(is_zero, np.uint8(blockmap.Kind.ZERO), np.uint8(blockmap.Kind.DATA))
    kind[entry == 0] = UNALLOCATED
    if header.extended_l2:
        kind = _kinds(found.bitmap)
        bad |= _contradicts(found.bitmap, offset != 0)
    if is_compressed.any():
        packed = entry[is_compressed]
        kind[is_compressed] = blockmap.Kind.COMPRESSED
        offset[is_compressed] = compressed.offsets(packed, header.cluster_bits)
        length[is_compressed] = compressed.lengths(packed, header.cluster_bits)
        end = units.round_up(file_size, units.SECTOR)
        bad[is_compressed] = (
            (packed < 0) | (found.bitmap[is_compressed] != 0) | (offset[is_compressed] > end - length[is_compressed])
        )
    # Ranges that were found bad may have overflowed, so they are not looked up.
    bad |= (length > 0) & metadata.meets(np.where(bad, 0, offset), np.where(bad, 0, length))
    return Judged(kind, offset, length, bad)


def _kinds(bitmap: Int64Array) -> UInt8Array:
    """Return what the bitmaps of extended entries make of their clusters."""
    kind = np.full(len(bitmap), MIXED, np.uint8)
    kind[bitmap == layout.SUBCLUSTERS_ALLOCATED] = blockmap.Kind.DATA
    kind[bitmap == layout.SUBCLUSTERS_ZERO] = blockmap.Kind.ZERO
    kind[bitmap == 0] = UNALLOCATED
    return kind


def _contradicts(bitmap: Int64Array, placed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Say of bitmaps whether a subcluster is allocated and zero, or allocated where the cluster has no place."""
    allocated = bitmap & layout.SUBCLUSTERS_ALLOCATED
    bad: npt.NDArray[np.bool_] = ((allocated & bitmap >> layout.SUBCLUSTERS) != 0) | (~placed & (allocated != 0))
    return bad


def require_possible(found: Runs, judged: Judged, what: str) -> None:
    """Raise errors.Corrupt, of `what`, for the first run that was found bad."""
    if judged.bad.any():
        worst = int(judged.bad.argmax())
        word = (1 << 64) - 1
        problem = f"impossible L2 entry {int(found.entry[worst]) & word:#018x}"
        if found.bitmap[worst]:
            problem += f" with subclusters {int(found.bitmap[worst]) & word:#018x}"
        raise errors.Corrupt(what=what, problem=f"{problem} of cluster {found.index[worst]}")


def to_block_map(found: Runs, judged: Judged, cluster_size: int, *, places: bool = False) -> blockmap.BlockMap:
    """Return the extents of runs, those of MIXED ones by subclusters; what is unallocated leaves no extent.

    With `places` zeros have their host offset too if they keep one, and so has what is unallocated, as extents of the
    kind UNALLOCATED.
    """
    start, length, kind, host = found.index * cluster_size, found.count * cluster_size, judged.kind, judged.host
    entry, placed = found.entry, host > 0
    mixed = kind == MIXED
    if mixed.any():
        run, first, count, kind = _subclusters(found.bitmap, kind, mixed)
        size = cluster_size // layout.SUBCLUSTERS
        start, host = start[run] + first * size, host[run] + first * size
        length = np.where(mixed[run], count * size, length[run])
        entry, placed = entry[run], placed[run]
    held = np.flatnonzero((kind != UNALLOCATED) | placed if places else kind != UNALLOCATED)
    kind = kind[held]
    shown = placed[held] if places else kind == blockmap.Kind.DATA
    host = np.where(shown, host[held], np.int64(-1))
    host = np.where(kind == blockmap.Kind.COMPRESSED, entry[held], host)
    return blockmap.BlockMap(start[held], length[held], kind, host, np.zeros(len(held), np.int32))


def _subclusters(
    bitmap: Int64Array, kind: UInt8Array, mixed: npt.NDArray[np.bool_]
) -> tuple[Int64Array, Int64Array, Int64Array, UInt8Array]:
    """Return runs with the mixed ones cut into runs of like subclusters.

    That is: which run each comes from, its first subcluster in there (0 if it is a whole run), how many subclusters
    it has (a mixed run's only), and its kind.
    """
    run = np.flatnonzero(mixed)
    bits = np.unpackbits(bitmap[run].astype("<i8").view(np.uint8), bitorder="little").reshape(-1, 2, layout.SUBCLUSTERS)
    # A subcluster is allocated or zero or neither: sound bitmaps have no bit in both halves.
    kinds = bits[:, 0] * np.uint8(blockmap.Kind.DATA) + bits[:, 1] * np.uint8(blockmap.Kind.ZERO)
    begins = np.ones(kinds.shape, np.bool_)
    begins[:, 1:] = kinds[:, 1:] != kinds[:, :-1]
    heads = np.flatnonzero(begins)
    row, first = np.divmod(heads, layout.SUBCLUSTERS)
    count = np.diff(heads, append=kinds.size)
    whole = np.flatnonzero(~mixed)
    source = np.concatenate((whole, run[row]))
    order = np.argsort(source, kind="stable")
    none = np.zeros(len(whole), np.int64)
    return (
        source[order],
        np.concatenate((none, first))[order],
        np.concatenate((none, count))[order],
        np.concatenate((kind[whole], kinds.reshape(-1)[heads]))[order],
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
