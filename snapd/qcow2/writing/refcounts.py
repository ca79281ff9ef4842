"""The refcount table and its blocks: loaded as needed, changed in memory, written back in the order that a kill allows.

Grows by itself: blocks at the end of the file, and the table moves when it is full. A refcount that its width can't
hold is never written. Knows nothing of what the clusters hold. Source: qcow2 specification, "Host cluster management".
"""

import os

import numpy as np

from snapd import errors, fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2.format import counters, layout
from snapd.qcow2.format.counters import Counters
from snapd.qcow2.format.header import Header
from snapd.qcow2.reading import tables

_KEPT_BYTES = 16 * units.MIB
"""Memory that blocks may take when all are clean."""


class Refcounts:
    """Refcounts of an open image, and the end of what they count. One thread, one writer."""

    def __init__(self, fd: int, header: Header, file_size: int, name: str) -> None:
        """Read the table. Raises errors.Corrupt for a table entry that is impossible."""
        self._fd = fd
        self._name = name
        self._cluster_size = header.cluster_size
        self._file_size = file_size
        self._order = header.refcount_order
        self.maximum = counters.maximum(header.refcount_order)
        """The highest refcount that can be written."""
        self.per_block = counters.per_block(header.refcount_order, header.cluster_bits)
        """Counters of one block."""
        self.end = units.divide_up(file_size, header.cluster_size)
        """The first cluster that was never used: the file ends before it."""
        self.superseded: list[tuple[int, int]] = []
        """(first cluster, count) of tables that moved, to be released once the new place is durable."""
        self._table_offset = header.refcount_table_offset
        self._table_clusters = header.refcount_table_clusters
        entries = header.refcount_table_clusters * header.pointers_per_cluster
        self._table = tables.read_table(fd, self._table_offset, entries, name)
        self._check_table()
        self._blocks: dict[int, Counters] = {}
        self._dirty: dict[int, tuple[int, int]] = {}
        self._unlinked: set[int] = set()
        self._moved = False

    def _check_table(self) -> None:
        table = self._table
        size = self._cluster_size
        used = table != 0
        bad = used & ((table % size != 0) | (table < size) | (table > units.round_up(self._file_size, size) - size))
        if bad.any():
            raise errors.Corrupt(what=self._name, problem=f"impossible refcount table entry {int(bad.argmax())}")

    def present(self) -> Int64Array:
        """Return the numbers of the blocks that exist, ascending."""
        return np.flatnonzero(self._table).astype(np.int64)

    def block(self, number: int) -> Counters | None:
        """Return the counters of a block as they stand, or None if it doesn't exist (all are 0 then)."""
        if number >= len(self._table) or self._table[number] == 0:
            return None
        if number not in self._blocks:
            raw = os.pread(self._fd, self._cluster_size, int(self._table[number]))
            if len(raw) != self._cluster_size:
                raise errors.Corrupt(what=self._name, problem=f"the file ends within refcount block {number}")
            self._blocks[number] = counters.unpack(np.frombuffer(raw, np.uint8), self._order)
        return self._blocks[number]

    def of(self, cluster: int) -> int:
        """Return the refcount of one cluster."""
        number, within = divmod(cluster, self.per_block)
        block = self.block(number)
        return 0 if block is None else int(block[within])

    def claim(self, first: int, count: int) -> None:
        """Give free clusters a refcount of one. Raises errors.Corrupt if one of them isn't free."""
        for number, low, high in self._spans(first, count):
            self._ensure(number)
            block = self.block(number)
            if block is None or block[low:high].any():
                raise errors.Corrupt(what=self._name, problem=f"cluster {first} is in use and was taken to be free")
            block[low:high] = 1
            self._touch(number, low, high)

    def lower(self, clusters: Int64Array, by: Int64Array) -> Int64Array:
        """Lower the refcounts of the clusters, ascending and each once; return those that are free now.

        Raises errors.Corrupt for a refcount that would fall below zero.
        """
        freed = []
        numbers = clusters // self.per_block
        for number in np.unique(numbers).tolist():
            here = numbers == number
            within = clusters[here] - number * self.per_block
            block = self.block(number)
            # Both as 64 bits without sign: the counters may be narrower than what is to be taken away.
            less = by[here].astype(np.uint64)
            if block is None or (block[within].astype(np.uint64) < less).any():
                raise errors.Corrupt(what=self._name, problem="a cluster that was in use has no refcount")
            block[within] -= less.astype(block.dtype)
            self._touch(number, int(within[0]), int(within[-1]) + 1)
            freed.append(clusters[here][block[within] == 0])
        return np.concatenate(freed) if freed else clusters[:0]

    def share(self, clusters: Int64Array, by: Int64Array) -> None:
        """Raise the refcounts of clusters in use, ascending and each once.

        The caller sees to it that none gets beyond `maximum`; errors.Corrupt if one would, or isn't in use.
        """
        numbers = clusters // self.per_block
        for number in np.unique(numbers).tolist():
            here = numbers == number
            within = clusters[here] - number * self.per_block
            block = self.block(number)
            more = by[here].astype(np.uint64)
            if block is None or (block[within] == 0).any():
                raise errors.Corrupt(what=self._name, problem="a cluster that was in use has no refcount")
            if (np.uint64(self.maximum) - block[within].astype(np.uint64) < more).any():
                raise errors.Corrupt(what=self._name, problem="a refcount beyond what its width holds")
            block[within] += more.astype(block.dtype)
            self._touch(number, int(within[0]), int(within[-1]) + 1)

    def extend(self, count: int) -> int:
        """Take `count` clusters behind everything, with a refcount of one, and return the first."""
        # Blocks that are missing are made first, since they take clusters at the end themselves.
        while (number := self._missing(self._unused(count), count)) is not None:
            self._ensure(number)
        first = self.end
        self.end += count
        self.claim(first, count)
        return first

    def _unused(self, count: int) -> int:
        """Return the first of `count` clusters behind everything that no refcount claims.

        A power cut can leave refcounts for clusters beyond the end of the file: leaks like others.
        """
        while True:
            busy = -1
            for number, low, high in self._spans(self.end, count):
                block = self.block(number)
                if block is not None and block[low:high].any():
                    busy = number * self.per_block + low + int(np.flatnonzero(block[low:high])[-1])
            if busy < 0:
                return self.end
            self.end = busy + 1

    def _take(self, count: int) -> int:
        first = self._unused(count)
        self.end = first + count
        return first

    def _missing(self, first: int, count: int) -> int | None:
        for number, _, _ in self._spans(first, count):
            if number >= len(self._table) or self._table[number] == 0:
                return number
        return None

    def _spans(self, first: int, count: int) -> list[tuple[int, int, int]]:
        """Return (block, first counter, end) of a range of clusters."""
        spans = []
        for number in range(first // self.per_block, (first + count - 1) // self.per_block + 1):
            base = number * self.per_block
            spans.append((number, max(first - base, 0), min(first + count - base, self.per_block)))
        return spans

    def _touch(self, number: int, low: int, high: int) -> None:
        before = self._dirty.get(number, (low, high))
        self._dirty[number] = (min(low, before[0]), max(high, before[1]))

    def _ensure(self, number: int) -> None:
        """Have a block exist. It counts itself, or the next one does."""
        if number >= len(self._table):
            self._grow_table(number)
        if self._table[number] != 0:
            return
        cluster = self._take(1)
        self._table[number] = cluster * self._cluster_size
        self._blocks[number] = np.zeros(self.per_block, counters.dtype(self._order))
        self._unlinked.add(number)
        self._touch(number, 0, self.per_block)
        self.claim(cluster, 1)

    def _grow_table(self, number: int) -> None:
        per_cluster = self._cluster_size // layout.ENTRY_SIZE
        clusters = max(2 * self._table_clusters, units.divide_up(number + 1, per_cluster) + 1)
        if clusters * self._cluster_size > layout.REFCOUNT_TABLE_BYTES_MAX:
            raise errors.StorageFull(path=self._name)
        self.superseded.append((self._table_offset // self._cluster_size, self._table_clusters))
        grown = np.zeros(clusters * per_cluster, np.int64)
        grown[: len(self._table)] = self._table
        self._table, self._table_clusters, self._moved = grown, clusters, True
        first = self._take(clusters)
        self._table_offset = first * self._cluster_size
        self.claim(first, clusters)

    # --- writing back -------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Say whether counters in memory differ from those in the file."""
        return bool(self._dirty)

    @property
    def unlinked(self) -> bool:
        """Say whether `link` has something to do, before which what `write` wrote must be durable."""
        return self._moved or bool(self._unlinked)

    def write(self) -> None:
        """Write the counters that changed, and a table that moved. Nothing refers to what is new yet."""
        per_byte = max(1, 8 >> self._order)
        for number, (low, high) in sorted(self._dirty.items()):
            first = units.round_down(low, per_byte)
            data = counters.pack(self._blocks[number][first : units.round_up(high, per_byte)], self._order)
            fsops.pwrite(self._fd, data, int(self._table[number]) + (first << self._order) // 8)
        self._dirty.clear()
        if self._moved:
            fsops.pwrite(self._fd, self._table.astype(">i8").tobytes(), self._table_offset)

    def link(self) -> None:
        """Make new blocks part of the table, or a table that moved the image's."""
        if self._moved:
            fields = layout.REFCOUNT_FIELDS.pack(self._table_offset, self._table_clusters)
            fsops.pwrite(self._fd, fields, layout.REFCOUNT_FIELDS_AT)
        else:
            for number in sorted(self._unlinked):
                entry = self._table[number : number + 1].astype(">i8").tobytes()
                fsops.pwrite(self._fd, entry, self._table_offset + number * layout.ENTRY_SIZE)
        self._unlinked.clear()
        self._moved = False

    def trim(self) -> None:
        """Forget blocks when many are in memory and none has changed."""
        size = self.per_block * counters.dtype(self._order).itemsize
        if not self._dirty and len(self._blocks) * size > _KEPT_BYTES:
            self._blocks.clear()
