"""All that an image's header and tables say while it is written, and the order in which that comes to disk.

Brings together the mapping, the refcounts and the free clusters of one image. Knows which cluster is whose, and nothing
of the bytes in them.
"""

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from snapd import errors, fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2.format import header, layout
from snapd.qcow2.reading import compressed, tables
from snapd.qcow2.writing.allocator import Allocator
from snapd.qcow2.writing.mapping import Mapping, Table, Where
from snapd.qcow2.writing.refcounts import Refcounts

_TABLES_MAX = 32 * units.MIB
"""Memory that L2 tables may take, changed or not."""
_PACKED_SPAN = 3
"""Host clusters that a compressed cluster can touch: its descriptor can name two clusters' worth of sectors."""


class Ledger:
    """Mapping, refcounts and size of one image that is being written. One thread, one writer."""

    def __init__(self, fd: int, name: str) -> None:
        """Read the header and the L1 table. Borrows the descriptor; name is for messages.

        Raises errors.ImageRefused for what is no image that the engine may write, errors.Corrupt for impossible tables.
        """
        file_size = os.fstat(fd).st_size
        parsed = header.read(fd, file_size)
        _check_writable(parsed)
        l1, metadata = tables.read_l1(fd, parsed, file_size, name)
        self.header = parsed
        """As it was when the image was opened."""
        self.size_bytes = parsed.size_bytes
        """The disk's size that the next `write_back` makes durable."""
        self._durable_size = parsed.size_bytes
        self._fd = fd
        self._refcounts = Refcounts(fd, parsed, file_size, name)
        self._allocator = Allocator(fd, self._refcounts, parsed.cluster_size)
        self._mapping = Mapping(fd, parsed, l1, metadata, name)
        self._lowered = False

    # --- guest clusters -----------------------------------------------------------------------------------------------

    def locate(self, offset: int) -> tuple[int, int]:
        """Return the L1 index and the L2 index of a guest offset."""
        return divmod(offset >> self.header.cluster_bits, self.header.table_entries)

    def entry(self, offset: int) -> int:
        """Return the L2 entry of a guest offset, 0 if there is no L2 table. Raises errors.Corrupt."""
        index, within = self.locate(offset)
        table = self.find(index)
        return 0 if table is None else int(table.entries[within])

    def bitmap(self, offset: int) -> int:
        """Return the bitmap of subclusters of a guest offset, of an extended image. Raises errors.Corrupt."""
        index, within = self.locate(offset)
        table = self.find(index)
        return 0 if table is None else int(table.bitmaps[within])

    def find(self, index: int) -> Table | None:
        """Return the L2 table of an L1 index, or None. Raises errors.Corrupt."""
        return self._mapping.find(index, self._file_size)

    def make(self, index: int) -> Table:
        """Return the L2 table of an L1 index, a new one if there was none. Raises errors.Corrupt."""
        return self._mapping.make(index, self._file_size, self._allocator)

    def replace(self, index: int, where: Where, entries: Int64Array, bitmaps: Int64Array | None = None) -> None:
        """Set entries of an L2 table, and let go of the clusters of those that this changes.

        In an extended image plain clusters get all their subclusters, and others none, unless bitmaps say otherwise.
        """
        old = self.make(index).entries[where].copy()
        if bitmaps is None and self.header.extended_l2:
            is_plain = (entries != 0) & ((entries & layout.COMPRESSED) == 0)
            bitmaps = np.where(is_plain, np.int64(layout.SUBCLUSTERS_ALLOCATED), np.int64(0))
        self._mapping.set(index, where, entries, bitmaps)
        self._release(old[old != entries])

    def gather(self, clusters: Int64Array) -> Int64Array:
        """Return the entries of guest clusters, ascending, in whichever tables they are."""
        entries = np.zeros(len(clusters), np.int64)
        for index, where, within in self.by_table(clusters):
            table = self.find(index)
            if table is not None:
                entries[where] = table.entries[within]
        return entries

    def shows_backing(self, clusters: Int64Array) -> npt.NDArray[np.bool_]:
        """Say of guest clusters, ascending, whether all or some of each is absent."""
        shows = np.ones(len(clusters), np.bool_)
        for index, where, within in self.by_table(clusters):
            table = self.find(index)
            if table is not None and self.header.extended_l2:
                bitmaps = table.bitmaps[within]
                known = (bitmaps | bitmaps >> layout.SUBCLUSTERS) & layout.SUBCLUSTERS_ALLOCATED
                is_packed = (table.entries[within] & layout.COMPRESSED) != 0
                shows[where] = ~is_packed & (known != layout.SUBCLUSTERS_ALLOCATED)
            elif table is not None:
                shows[where] = table.entries[within] == 0
        return shows

    def holds_data(self, offset: int) -> bool:
        """Say whether any guest cluster from that offset's on has bytes of its own."""
        first_index, first = self.locate(offset)
        for index in self._mapping.present():
            table = self.find(index)
            if index < first_index or table is None:
                continue
            low = first if index == first_index else 0
            entries = table.entries[low:]
            has_bytes = ((entries & layout.OFFSET_MASK) != 0) & ((entries & layout.ZERO) == 0)
            if self.header.extended_l2:
                has_bytes &= (table.bitmaps[low:] & layout.SUBCLUSTERS_ALLOCATED) != 0
            if (has_bytes | ((entries & layout.COMPRESSED) != 0)).any():
                return True
            self.relieve()
        return False

    def scatter(self, clusters: Int64Array, entries: Int64Array, bitmaps: Int64Array | None = None) -> None:
        """Set the entries of guest clusters, ascending, in whichever tables they are, as `replace` does."""
        for index, where, within in self.by_table(clusters):
            self.replace(index, within, entries[where], None if bitmaps is None else bitmaps[where])
            self.relieve()

    def by_table(self, clusters: Int64Array) -> Iterator[tuple[int, slice, Int64Array]]:
        """Yield (L1 index, which of the clusters, their L2 indexes) for each table that clusters, ascending, are in."""
        index, within = np.divmod(clusters, self.header.table_entries)
        ends = [*(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
        for low, high in zip([0, *ends[:-1]], ends, strict=True):
            yield int(index[low]), slice(low, high), within[low:high]

    def drop_beyond(self, offset: int) -> None:
        """Forget all guest clusters from that offset, a cluster's, on."""
        first_index, first = self.locate(offset)
        for index in self._mapping.present():
            table = self.find(index)
            low = first if index == first_index else 0
            if index >= first_index and table is not None and table.words[low * table.width :].any():
                self.replace(index, slice(low, len(table.entries)), np.zeros(len(table.entries) - low, np.int64))
                self.relieve()

    def grow(self, size_bytes: int) -> None:
        """Have the L1 table hold a disk of that size."""
        entries = header.l1_entries_for(size_bytes, self.header.cluster_bits, self.header.entry_size)
        self._mapping.grow_l1(entries, self._allocator)

    # --- host clusters ------------------------------------------------------------------------------------------------

    def allocate(self, count: int) -> tuple[int, int]:
        """Return (first host cluster, how many): at least one and up to count of them in a row."""
        return self._allocator.allocate(count)

    def allocate_packed(self, lengths: list[int]) -> Int64Array:
        """Return where compressed clusters of these lengths in bytes go, one behind the other as far as that goes."""
        return self._allocator.allocate_packed(lengths)

    @property
    def _file_size(self) -> int:
        return self._refcounts.end << self.header.cluster_bits

    def _release(self, entries: Int64Array) -> None:
        """Let go of the host clusters that entries refer to."""
        if not entries.any():
            return
        bits = self.header.cluster_bits
        is_packed = (entries & layout.COMPRESSED) != 0
        plain = entries[~is_packed] & layout.OFFSET_MASK
        self._allocator.release(plain[plain != 0] >> bits)
        start = compressed.offsets(entries[is_packed], bits)
        first, last = start >> bits, (start + compressed.lengths(entries[is_packed], bits) - 1) >> bits
        for step in range(_PACKED_SPAN):
            self._allocator.release((first + step)[first + step <= last])

    # --- coming to disk -----------------------------------------------------------------------------------------------

    def clear_autoclear(self) -> None:
        """Take away the features that a writer who doesn't know them has to take away: it knows none."""
        if self.header.autoclear:
            fsops.pwrite(self._fd, bytes(8), layout.AUTOCLEAR_AT)
            fsops.fdatasync(self._fd)

    def relieve(self) -> None:
        """Write tables back if they take too much memory."""
        if self._mapping.full(_TABLES_MAX):
            self.write_back()

    def write_back(self) -> None:
        """Make everything durable, the bytes in the clusters too: what is referred to before what refers to it."""
        if self.size_bytes < self._durable_size and not self._mapping.l1_moved:
            # Before the entries go, or what lies below would show where the disk was cut off.
            self._write_size()
        self._mapping.write_new()
        self._refcounts.write()
        if self._refcounts.unlinked:
            # A table that refers to a block must not come to disk before the block's counters.
            fsops.fdatasync(self._fd)
            self._refcounts.link()
        fsops.fdatasync(self._fd)
        fsops.point("qcow2.clusters-durable")
        if self._mapping.dirty:
            self._mapping.publish(self._durable_size)
            fsops.fdatasync(self._fd)
            fsops.point("qcow2.tables-durable")
        if self.size_bytes != self._durable_size:
            # Only now, since the tables say what the new part of the disk reads as.
            self._write_size()
            fsops.fdatasync(self._fd)
        self._lowered = self._allocator.settle()
        self._refcounts.trim()

    def conclude(self) -> None:
        """Make durable that clusters are free which the last write_back let go of: nobody looks for leaks later."""
        if self._lowered:
            fsops.fdatasync(self._fd)
            self._lowered = False

    def _write_size(self) -> None:
        fields = layout.SIZE_FIELDS.pack(self.size_bytes, 0, self._mapping.l1_size, self._mapping.l1_offset)
        fsops.pwrite(self._fd, fields, layout.SIZE_FIELDS_AT)
        self._durable_size = self.size_bytes


def is_only_dirty(parsed: header.Header) -> bool:
    """Say whether nothing but the dirty mark keeps an image from being written."""
    marks = parsed.incompatible & (layout.INCOMPATIBLE_DIRTY | layout.INCOMPATIBLE_CORRUPT)
    return marks == layout.INCOMPATIBLE_DIRTY and not parsed.snapshot_count


def _check_writable(parsed: header.Header) -> None:
    problem = None
    if parsed.incompatible & layout.INCOMPATIBLE_CORRUPT:
        problem = "it is marked corrupt: it can be read, and repaired if only its refcounts are wrong"
    elif parsed.incompatible & layout.INCOMPATIBLE_DIRTY:
        problem = "it is marked dirty, and has damage that a rebuild of its refcounts can't mend"
    elif parsed.snapshot_count:
        problem = "it has internal snapshots, with which the engine writes no image"
    if problem:
        raise errors.ImageRefused(problem=problem)
