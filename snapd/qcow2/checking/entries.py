"""L2 tables taken for what they are, damaged or not: which host clusters their entries refer to, and what is wrong.

Nothing is refused and nothing is looked up in other tables, so that a check can count everything once; reading, which
refuses what is impossible, has `tables` for that. Counts what is wrong as `qemu-img check` does, except that it also
counts what reading refuses and QEMU takes: COPIED on an entry without a host cluster, and the zero flag where the
format has none (version 2, extended entries). Source: qcow2 specification, "Cluster mapping".
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from snapd import units
from snapd.blockmap import Int64Array, UInt8Array
from snapd.qcow2.format import layout
from snapd.qcow2.format.header import Header
from snapd.qcow2.reading import compressed

BoolArray = npt.NDArray[np.bool_]

NOWHERE = 1 << 62
"""A cluster that no file has."""
_ALLOCATED = (1 << layout.SUBCLUSTERS) - 1
"""Of a bitmap of subclusters: the bits that say allocated; those that say zero lie above."""


@dataclasses.dataclass(slots=True)
class Counts:
    """Guest clusters, and what is wrong with their entries."""

    corruptions: int = 0
    unseen: int = 0
    """Those of the corruptions that QEMU takes for sound."""
    allocated: int = 0
    compressed: int = 0
    fragmented: int = 0
    """Those that don't follow the one before in the file; compressed ones are so by nature."""
    nearest: int = NOWHERE
    """The first cluster past the end of the file that an entry refers to."""

    def add(self, other: "Counts", active: int, inactive: int) -> None:
        """Add what was counted in a table that so many own L1 entries and so many of snapshots refer to."""
        self.corruptions += other.corruptions * (active + inactive)
        self.unseen += other.unseen * (active + inactive)
        self.allocated += other.allocated * active
        self.compressed += other.compressed * active
        self.fragmented += other.fragmented * active
        self.nearest = min(self.nearest, other.nearest)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Host clusters in a row. Arrays of one length."""

    first: Int64Array
    """Cluster of the file."""
    count: Int64Array
    copied: BoolArray
    """What the COPIED flag says; False where there is none."""

    @classmethod
    def without_flag(cls, first: Int64Array, count: Int64Array) -> "Runs":
        """Return runs that no flag says anything of."""
        return cls(first, count, np.zeros(len(first), np.bool_))


@dataclasses.dataclass(slots=True, eq=False)
class Found:
    """What some L2 tables refer to."""

    plain: Runs
    """Of standard entries, within the file."""
    beyond: Runs
    """Of standard entries too, past the end of the file: counted as corruptions, and referred to by nobody."""
    others: list[Runs]
    """Of compressed entries, and second clusters of entries that are misaligned."""
    counts: Counts


def parse(raw: UInt8Array, tables: int, header: Header, file_size: int) -> Found:
    """Return what so many L2 tables, one behind the other, refer to in a file of file_size bytes."""
    if header.extended_l2:
        return _parse_extended(raw, tables, header, file_size)
    words = raw.view(np.int64)
    used = np.flatnonzero(words)
    full = len(used) == len(words)
    found = (words if full else words[used]).byteswap()
    bounds = np.arange(tables + 1, dtype=np.int64) * header.table_entries
    if not full:
        bounds = np.searchsorted(used, bounds)
    return _judge(found, bounds, header, file_size)


def compressed_offsets(raw: UInt8Array, header: Header) -> Int64Array:
    """Return where the compressed clusters begin that L2 tables refer to, in bytes and in the entries' order."""
    entry = raw.view(">i8")[:: header.entry_size // layout.ENTRY_SIZE].astype(np.int64)
    return compressed.offsets(entry[(entry & layout.COMPRESSED) != 0], header.cluster_bits)


def _parse_extended(raw: UInt8Array, tables: int, header: Header, file_size: int) -> Found:
    words = raw.view(np.int64).reshape(-1, 2)
    used = np.flatnonzero(words[:, 0] | words[:, 1])
    entry, bitmap = words[used, 0].byteswap(), words[used, 1].byteswap()
    packed = (entry & layout.COMPRESSED) != 0
    allocated, zero = bitmap & _ALLOCATED, (bitmap >> layout.SUBCLUSTERS) & _ALLOCATED
    placed = (entry & layout.OFFSET_MASK) != 0
    wrong = np.where(placed, (allocated & zero) != 0, allocated != 0)
    wrong[packed] = bitmap[packed] != 0
    # QEMU makes nothing of a compressed entry that has subclusters.
    kept = ~(packed & wrong)
    bounds = np.searchsorted(used[kept], np.arange(tables + 1, dtype=np.int64) * header.table_entries)
    found = _judge(entry[kept], bounds, header, file_size)
    found.counts.corruptions += int(wrong.sum())
    return found


def _judge(entry: Int64Array, bounds: Int64Array, header: Header, file_size: int) -> Found:
    """Return what entries refer to; those of table i are bounds[i] to bounds[i + 1], and none is 0."""
    counts = Counts()
    others: list[Runs] = []
    heads = _heads(entry, header.cluster_size)
    first = entry[heads]
    # In most images all entries are copied data: no flag has to be looked at twice.
    ordinary = bool(((first & ~layout.OFFSET_MASK) == layout.COPIED).all() and (first != layout.COPIED).all())
    if not ordinary and not _are_plain(first).all():
        packed = (entry & layout.COMPRESSED) != 0
        if packed.any():
            others.append(_packed(entry[packed], header, file_size, counts))
        bare = ~packed & ((entry & layout.OFFSET_MASK) == 0)
        _count_reserved(entry[bare], None, layout.COPIED | _no_zero(header), counts)
        plain = np.flatnonzero(~(packed | bare))
        entry, bounds = entry[plain], np.searchsorted(plain, bounds)
        heads = _heads(entry, header.cluster_size)
        first = entry[heads]
    length = np.diff(heads, append=len(entry))
    counts.allocated += len(entry)
    counts.fragmented += _count_fragments(entry, heads, bounds, header.cluster_size, ordinary=ordinary)
    if not ordinary:
        _count_reserved(first, length, _no_zero(header), counts)
    plain_runs, beyond = _place(first, length, header, file_size, counts, others)
    return Found(plain_runs, beyond, others, counts)


def _heads(entry: Int64Array, cluster_size: int) -> Int64Array:
    """Return where runs of host clusters begin. An entry that continues another has its flags, too."""
    if len(entry) == 0:
        return np.empty(0, np.int64)
    breaks = np.flatnonzero((entry[1:] - entry[:-1]) != cluster_size)
    return np.concatenate((np.zeros(1, np.int64), breaks + 1))


def _are_plain(entry: Int64Array) -> BoolArray:
    result: BoolArray = ((entry & layout.COMPRESSED) == 0) & ((entry & layout.OFFSET_MASK) != 0)
    return result


def _count_fragments(
    entry: Int64Array, heads: Int64Array, bounds: Int64Array, cluster_size: int, *, ordinary: bool
) -> int:
    """Return how many plain entries don't follow the one before of the same table."""
    starts = np.unique(bounds[:-1][bounds[1:] > bounds[:-1]])
    where = np.searchsorted(heads, starts)
    where = where[heads[np.minimum(where, len(heads) - 1)] == starts] if len(heads) else where
    if ordinary:
        return len(heads) - len(where)
    later = np.delete(heads, where)
    step = (entry[later] & layout.OFFSET_MASK) - (entry[later - 1] & layout.OFFSET_MASK)
    return int((step != cluster_size).sum())


def _no_zero(header: Header) -> int:
    """Return the zero flag if the format has none."""
    return layout.ZERO if header.version == 2 or header.extended_l2 else 0


def _count_reserved(entry: Int64Array, length: Int64Array | None, more: int, counts: Counts) -> None:
    """Count the standard entries with bits that none has, or with more of them than QEMU looks at."""
    reserved = (entry & layout.L2_RESERVED) != 0
    unseen = ((entry & more) != 0) & ~reserved
    times = np.ones_like(entry) if length is None else length
    counts.unseen += int(times[unseen].sum())
    counts.corruptions += int(times[reserved | unseen].sum())


def _place(
    entry: Int64Array, length: Int64Array, header: Header, file_size: int, counts: Counts, others: list[Runs]
) -> tuple[Runs, Runs]:
    """Return runs of plain entries as (those within the file, those beyond), given the first entry of each."""
    size = header.cluster_size
    offset = entry & layout.OFFSET_MASK
    first, copied = offset >> header.cluster_bits, entry < 0
    inside = np.minimum(length, np.maximum((file_size - offset + size - 1) >> header.cluster_bits, 0))
    misaligned = (offset & (size - 1)) != 0
    if misaligned.any():
        counts.corruptions += int(length[misaligned].sum())
        others.append(Runs.without_flag(first[misaligned] + 1, inside[misaligned]))
    beyond = inside < length
    if not beyond.any():
        return Runs(first, length, copied), Runs(first[:0], length[:0], copied[:0])
    past = Runs((first + inside)[beyond], (length - inside)[beyond], copied[beyond])
    counts.corruptions += int(past.count.sum())
    counts.nearest = min(counts.nearest, int(past.first.min()))
    return Runs(first, inside, copied), past


def _packed(entry: Int64Array, header: Header, file_size: int, counts: Counts) -> Runs:
    """Return the clusters that compressed entries lie in: a descriptor may name three and more."""
    offset = compressed.offsets(entry, header.cluster_bits)
    length = compressed.lengths(entry, header.cluster_bits)
    counts.allocated += len(entry)
    counts.compressed += len(entry)
    counts.fragmented += len(entry)
    inside = offset + length - file_size < header.cluster_size
    counts.corruptions += int((entry < 0).sum()) + int((~inside).sum())
    if not inside.all():
        # It may begin within the file and end far behind it.
        end = units.divide_up(file_size, header.cluster_size)
        counts.nearest = min(counts.nearest, max(end, int(offset[~inside].min()) >> header.cluster_bits))
    first = offset[inside] >> header.cluster_bits
    last = (offset + length - 1)[inside] >> header.cluster_bits
    return Runs.without_flag(first, last - first + 1)
