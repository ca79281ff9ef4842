"""All that refers to host clusters but the entries of L2 tables: the header, its tables, snapshots, bitmaps, L1 tables.

Takes damaged images as they are: what is wrong is counted, as `qemu-img check` does, and what can be followed is
followed. Refuses only what would take unbounded work. Source: qcow2 specification, "Snapshots", "Bitmaps",
"Host cluster management".
"""

import dataclasses
import os

import numpy as np

from snapd import errors, units
from snapd.blockmap import Int64Array
from snapd.qcow2.checking import entries
from snapd.qcow2.format import layout
from snapd.qcow2.format.header import Header
from snapd.qcow2.reading import pieces

_SNAPSHOT_EXTRA_V3 = 16
"""Bytes of extra data that version 3 wants: sizes of the VM state and of the disk."""
_BITMAP_ENTRY_RESERVED = -(1 << 56) | 0x1FE
_BITMAP_ENTRY_ONES = 1
_L1_ENTRIES_MAX = 1 << 27
"""Of all L1 tables together, 1 GiB: a terabyte's thousand snapshots have a fiftieth of it."""
_BITMAP_CLUSTERS_MAX = 1 << 22
"""Of all bitmaps together: 256 GiB of them with clusters of 64 KiB."""
_PENDING_MAX = 1 << 22
_COPIED, _UNCOPIED, _INACTIVE = range(3)


@dataclasses.dataclass(slots=True, eq=False)
class L2Tables:
    """Every L2 table once, ascending by offset. Arrays of one length."""

    offset: Int64Array
    """Bytes, within the file; a multiple of 512 and no more if the L1 entry is damaged."""
    copied: Int64Array
    """Entries of the image's own L1 table that refer to it and have the COPIED flag."""
    uncopied: Int64Array
    """Those that don't have it."""
    inactive: Int64Array
    """Entries of snapshots' L1 tables, and entries whose offset is 0."""

    @property
    def times(self) -> Int64Array:
        """Entries of all L1 tables."""
        return self.copied + self.uncopied + self.inactive


class Sources:
    """What was gathered from one open image. Read it, then take the attributes."""

    def __init__(self, fd: int, header: Header, file_size: int, *, with_refcounts: bool) -> None:
        """Gather, with the refcount table or without.

        Raises errors.ImageRefused for L1 or bitmap tables beyond what is bounded work.
        """
        self._fd = fd
        self._header = header
        self._file_size = file_size
        self.corruptions = 0
        self.check_errors = 0
        """Lists that can't be read to their end."""
        self.incomplete = False
        """Something that refers to clusters was left out."""
        self.nearest = entries.NOWHERE
        """The first cluster past the end of the file that is referred to."""
        self.beyond: list[bool] = []
        """COPIED flags of own L1 entries that refer to what lies past the end."""
        self._fixed: list[tuple[int, int]] = []
        self._bitmap_clusters = np.empty(0, np.int64)
        # Places of L2 tables, four times over, and what kind of entry refers to them; then how many such entries.
        self._keys: list[Int64Array] = []
        self._times: list[Int64Array] = []
        self._budget = _L1_ENTRIES_MAX
        self._refer(0, header.cluster_size)
        self._add_l1(header.l1_offset, header.l1_size, active=True)
        self._add_snapshots()
        if with_refcounts:
            self._refer(header.refcount_table_offset, header.refcount_table_clusters * header.cluster_size)
        self._add_bitmaps(*header.bitmaps)
        self._merge()
        self.tables = self._list_tables()
        """The L2 tables of all L1 tables."""

    def fixed(self) -> tuple[Int64Array, Int64Array]:
        """Return (first cluster, clusters) of the metadata that is neither an L2 table nor a refcount block."""
        ranges = np.array(self._fixed, np.int64).reshape(-1, 2)
        ones = np.ones(len(self._bitmap_clusters), np.int64)
        return np.concatenate((ranges[:, 0], self._bitmap_clusters)), np.concatenate((ranges[:, 1], ones))

    def _refer(self, offset: int, length: int) -> None:
        if length <= 0:
            return
        if offset + length - self._file_size >= self._header.cluster_size:
            self.corruptions += 1
            self._miss(offset)
            return
        first = offset >> self._header.cluster_bits
        last = (offset + length - 1) >> self._header.cluster_bits
        self._fixed.append((first, last - first + 1))

    def _miss(self, offset: int) -> None:
        """Take note of a reference that reaches past the end."""
        end = units.divide_up(self._file_size, self._header.cluster_size)
        self.nearest = min(self.nearest, max(end, offset >> self._header.cluster_bits))

    def _table(self, offset: int, entries: int) -> Int64Array:
        return (
            pieces.read(self._fd, np.array([offset], np.int64), entries * layout.ENTRY_SIZE)
            .view(">i8")
            .astype(np.int64)
        )

    # --- L1 tables ----------------------------------------------------------------------------------------------------

    def _add_l1(self, offset: int, entries: int, *, active: bool) -> None:
        if entries == 0:
            return
        self._budget -= entries
        if self._budget < 0:
            raise errors.ImageRefused(problem=f"L1 tables of more than {_L1_ENTRIES_MAX} entries together")
        self._refer(offset, entries * layout.ENTRY_SIZE)
        if offset >= self._file_size:
            return
        table = self._table(offset, entries)
        entry = table[table != 0]
        self.corruptions += int(((entry & layout.L1_RESERVED) != 0).sum())
        place = entry & layout.OFFSET_MASK
        aligned = (place & (self._header.cluster_size - 1)) == 0
        self.corruptions += int((~aligned).sum())
        inside = place < self._file_size
        # QEMU has a table that the file's end cuts short go on with zeros; reading refuses it.
        missing = ~inside | (aligned & (place > self._file_size - self._header.cluster_size))
        self.corruptions += int(missing.sum())
        if missing.any():
            self._miss(int(place[missing].min()))
        if active:
            self.beyond.extend((entry[~inside] < 0).tolist())
        # An entry without an offset has the header taken for a table, and no flag looked at.
        own = active & (place != 0)
        kind = np.where(own, np.where(entry < 0, _COPIED, _UNCOPIED), _INACTIVE)
        key, times = np.unique((place << 2 | kind)[inside], return_counts=True)
        self._keys.append(key)
        self._times.append(times)
        if sum(map(len, self._keys)) > _PENDING_MAX:
            self._merge()

    def _merge(self) -> None:
        """Have every kind of reference to a table once."""
        if not self._keys:
            self._keys, self._times = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        key, which = np.unique(np.concatenate(self._keys), return_inverse=True)
        times = np.zeros(len(key), np.int64)
        np.add.at(times, which, np.concatenate(self._times))
        self._keys, self._times = [key], [times]

    def _list_tables(self) -> L2Tables:
        """Return the tables that the merged references name, which are let go of."""
        key, times = self._keys.pop(), self._times.pop()
        offset = key >> 2
        first = np.flatnonzero(np.diff(offset, prepend=-1))
        columns = np.zeros((3, len(first)), np.int64)
        which = np.zeros(len(key), np.int32)
        which[first[1:]] = 1
        columns[key & 3, np.cumsum(which, dtype=np.int32)] = times
        return L2Tables(offset[first], *columns)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def _add_snapshots(self) -> None:
        """Follow the snapshots' L1 tables, and refer to the list itself."""
        header = self._header
        at = header.snapshots_offset
        for _ in range(header.snapshot_count):
            at = units.round_up(at, 8)
            fields = layout.SNAPSHOT.unpack(
                os.pread(self._fd, layout.SNAPSHOT.size, at).ljust(layout.SNAPSHOT.size, b"\0")
            )
            l1_offset, l1_entries, id_length, name_length = fields[:4]
            extra = fields[8]
            at += layout.SNAPSHOT.size + extra + id_length + name_length
            if (
                extra > layout.SNAPSHOT_EXTRA_BYTES_MAX
                or at - header.snapshots_offset > layout.SNAPSHOT_TABLE_BYTES_MAX
            ):
                self.check_errors += 1
                self.incomplete = True
                return
            if header.version >= 3 and extra < _SNAPSHOT_EXTRA_V3:
                self.corruptions += 1
            if l1_offset % header.cluster_size or l1_entries * layout.ENTRY_SIZE > layout.L1_BYTES_MAX:
                self.corruptions += 1
                self.incomplete = True
            else:
                self._add_l1(min(l1_offset, layout.HOST_END_MAX), l1_entries, active=False)
        self._refer(header.snapshots_offset, at - header.snapshots_offset if header.snapshot_count else 0)

    # --- bitmaps ------------------------------------------------------------------------------------------------------

    def _add_bitmaps(self, count: int, offset: int, size: int) -> None:
        """Refer to the directory of bitmaps, to their tables and to their clusters."""
        if count == 0:
            return
        self._refer(offset, size)
        directory = pieces.read(self._fd, np.array([offset], np.int64), size).tobytes()
        at, found, budget = 0, 0, _BITMAP_CLUSTERS_MAX
        while at <= size - layout.BITMAP_ENTRY.size and found < count:
            table_offset, entries, _, _, _, name_length, extra = layout.BITMAP_ENTRY.unpack_from(directory, at)
            at += units.round_up(layout.BITMAP_ENTRY.size + name_length + extra, 8)
            found += 1
            if at > size or extra or entries == 0 or table_offset == 0 or table_offset % self._header.cluster_size:
                break
            budget -= entries
            if budget < 0:
                raise errors.ImageRefused(problem=f"bitmaps of more than {_BITMAP_CLUSTERS_MAX} clusters together")
            self._refer(table_offset, entries * layout.ENTRY_SIZE)
            if table_offset < self._file_size:
                self._add_bitmap_clusters(self._table(table_offset, entries))
        else:
            if at == size and found == count:
                return
        # QEMU stops here without any numbers.
        self.corruptions += 1
        self.check_errors += 1
        self.incomplete = True

    def _add_bitmap_clusters(self, entry: Int64Array) -> None:
        size = self._header.cluster_size
        offset = entry & layout.OFFSET_MASK
        bad = (entry & _BITMAP_ENTRY_RESERVED) != 0
        bad |= (offset != 0) & (((entry & _BITMAP_ENTRY_ONES) != 0) | ((offset & (size - 1)) != 0))
        self.corruptions += int(bad.sum())
        used = offset[~bad & (offset != 0)]
        inside = used < self._file_size
        self.corruptions += int((~inside).sum())
        if not inside.all():
            self._miss(int(used[~inside].min()))
        self._bitmap_clusters = np.concatenate((self._bitmap_clusters, used[inside] >> self._header.cluster_bits))
