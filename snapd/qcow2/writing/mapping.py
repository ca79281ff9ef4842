"""The L1 and L2 tables of an image that is being written: cached, changed in memory, written back in two steps.

First what nothing on disk refers to yet (`write_new`), then, once that and the clusters are durable, the entries that
make it visible (`publish`). Knows nothing of clusters' contents. Source: qcow2 specification, "Cluster mapping".
"""

import dataclasses

import numpy as np

from snapd import errors, fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2.format import layout
from snapd.qcow2.format.header import Header
from snapd.qcow2.reading import tables
from snapd.qcow2.writing.allocator import Allocator

Where = slice | Int64Array
"""Which entries of a table: a range from start to stop, or ascending indexes."""


@dataclasses.dataclass(slots=True, eq=False)
class Table:
    """An L2 table in memory."""

    words: Int64Array
    """As they are, or will be, on disk: an entry each, or in extended tables an entry and its bitmap in turn."""
    width: int
    """Words of an entry: 1 or 2."""
    offset: int
    """Of the table in the file, in bytes."""
    is_new: bool
    """The L1 table on disk doesn't refer to it."""
    low: int = 0
    high: int = 0
    """Entries [low, high) differ from the file."""

    @property
    def entries(self) -> Int64Array:
        """The standard entries, as a view."""
        return self.words[:: self.width]

    @property
    def bitmaps(self) -> Int64Array:
        """The bitmaps of subclusters, as a view; only extended tables have them."""
        return self.words[1 :: self.width]

    def touch(self, low: int, high: int) -> None:
        """Note that entries [low, high) differ from the file."""
        self.low, self.high = (min(self.low, low), max(self.high, high)) if self.high else (low, high)


class Mapping:
    """L1 and L2 tables of one image. One thread, one writer."""

    def __init__(self, fd: int, header: Header, l1: Int64Array, metadata: tables.Metadata, name: str) -> None:
        """Take the L1 table, whose entries were found sound."""
        self._fd = fd
        self._name = name
        self._header = header
        self._width = header.entry_size // layout.ENTRY_SIZE
        self._metadata = metadata
        self._l1 = l1.copy()
        self._l1_offset = header.l1_offset
        self._l1_moved = False
        self._tables: dict[int, Table] = {}
        self._dirty: set[int] = set()

    @property
    def l1_size(self) -> int:
        """Entries of the L1 table."""
        return len(self._l1)

    @property
    def l1_offset(self) -> int:
        """Where the L1 table is, or will be once it is published."""
        return self._l1_offset

    @property
    def l1_moved(self) -> bool:
        """Say whether the L1 table has another place and size in the file than here."""
        return self._l1_moved

    @property
    def dirty(self) -> bool:
        """Say whether tables in memory differ from those in the file."""
        return bool(self._dirty) or self._l1_moved

    def full(self, most_bytes: int) -> bool:
        """Say whether changed tables take more than most_bytes of memory; drop unchanged ones when all together do."""
        size = self._header.cluster_size
        if len(self._tables) * size > most_bytes:
            self._tables = {index: self._tables[index] for index in self._dirty}
        return len(self._dirty) * size > most_bytes // 2

    def present(self) -> list[int]:
        """Return the L1 indexes that have an L2 table, ascending."""
        return sorted({*np.flatnonzero(self._l1).tolist(), *self._dirty})

    def find(self, index: int, file_size: int) -> Table | None:
        """Return the L2 table of an L1 index, or None. Raises errors.Corrupt if an entry is impossible.

        file_size is the file's present length, which entries have to stay within.
        """
        table = self._tables.get(index)
        if table is None and self._l1[index] != 0:
            offset = int(self._l1[index]) & layout.OFFSET_MASK
            if self._l1[index] >= 0:
                raise errors.Corrupt(what=self._name, problem=f"the L2 table at offset {offset} is shared")
            words = tables.read_table(self._fd, offset, self._header.pointers_per_cluster, self._name)
            table = Table(words, self._width, offset, is_new=False)
            self._check(table, file_size)
            self._tables[index] = table
        return table

    def make(self, index: int, file_size: int, allocator: Allocator) -> Table:
        """Return the L2 table of an L1 index, a new one if there was none."""
        table = self.find(index, file_size)
        if table is None:
            cluster, _ = allocator.allocate(1)
            words = np.zeros(self._header.pointers_per_cluster, np.int64)
            table = Table(words, self._width, cluster * self._header.cluster_size, is_new=True)
            self._tables[index] = table
            self._dirty.add(index)
        return table

    def set(self, index: int, where: Where, entries: Int64Array, bitmaps: Int64Array | None) -> None:
        """Change entries, a range of them or ascending ones, of a table that `find` or `make` returned.

        Extended tables need the bitmaps that go with the entries; others take None.
        """
        table = self._tables[index]
        table.entries[where] = entries
        if bitmaps is not None:
            table.bitmaps[where] = bitmaps
        if isinstance(where, slice):
            table.touch(where.start, where.stop)
        else:
            table.touch(int(where[0]), int(where[-1]) + 1)
        self._dirty.add(index)

    def grow_l1(self, entries: int, allocator: Allocator) -> None:
        """Have the L1 table hold at least so many entries, in a new place if need be."""
        if entries <= len(self._l1):
            return
        size = self._header.cluster_size
        old, old_size = self._l1_offset, len(self._l1) * layout.ENTRY_SIZE
        grown = np.zeros(entries, np.int64)
        grown[: len(self._l1)] = self._l1
        self._l1, self._l1_offset = grown, allocator.allocate_run(units.divide_up(grown.nbytes, size)) * size
        self._l1_moved = True
        allocator.retire(old // size, units.divide_up(old_size, size))

    def _check(self, table: Table, file_size: int) -> None:
        header = self._header
        found = tables.runs_of(table.words, header, np.empty(0, np.int64))
        if tables.judge(found, header, file_size, self._metadata).bad.any():
            raise errors.Corrupt(what=self._name, problem=f"impossible entry in the L2 table at offset {table.offset}")

    # --- writing back -------------------------------------------------------------------------------------------------

    def write_new(self) -> None:
        """Write the tables that nothing on disk refers to yet."""
        for index in sorted(self._dirty):
            table = self._tables[index]
            if table.is_new:
                fsops.pwrite(self._fd, table.words.astype(">i8").tobytes(), table.offset)
                self._l1[index] = table.offset | layout.COPIED
        if self._l1_moved:
            size = self._header.cluster_size
            data = self._l1.astype(">i8").tobytes()
            fsops.pwrite(self._fd, data.ljust(units.round_up(len(data), size), b"\0"), self._l1_offset)

    def publish(self, size_bytes: int) -> None:
        """Write the entries that make visible what is durable by now; each write may be torn between sectors.

        size_bytes is the disk's size as the header has it.
        """
        for index in sorted(self._dirty):
            table = self._tables[index]
            if not table.is_new:
                changed = table.words[table.low * table.width : table.high * table.width].astype(">i8")
                fsops.pwrite(self._fd, changed.tobytes(), table.offset + table.low * self._header.entry_size)
            elif not self._l1_moved:
                entry = self._l1[index : index + 1].astype(">i8")
                fsops.pwrite(self._fd, entry.tobytes(), self._l1_offset + index * layout.ENTRY_SIZE)
            table.is_new, table.low, table.high = False, 0, 0
        self._dirty.clear()
        if self._l1_moved:
            fields = layout.SIZE_FIELDS.pack(size_bytes, 0, len(self._l1), self._l1_offset)
            fsops.pwrite(self._fd, fields, layout.SIZE_FIELDS_AT)
            self._l1_moved = False
