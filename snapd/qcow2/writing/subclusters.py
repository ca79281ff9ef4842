"""What an image with extended L2 entries does otherwise: a small write takes a part of a cluster only.

Each cluster has a bitmap: 32 subclusters that are allocated, read as zeros, or show what lies below. A write in part
touches the subclusters that it needs; their bytes are durable before the bitmap says that they are there. Source: qcow2
specification, "Extended L2 Entries".
"""

import numpy as np

from snapd import fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2.format import layout
from snapd.qcow2.writing.clusters import Clusters, is_own
from snapd.qcow2.writing.mapping import Where

_ALL = layout.SUBCLUSTERS_ALLOCATED


def marked(bitmap: int, low: int, high: int, *, allocated: bool) -> int:
    """Return a bitmap in which the subclusters [low, high) are allocated, or else read as zeros."""
    mask = (1 << high) - (1 << low)
    ones, zeros = bitmap & _ALL & ~mask, (bitmap >> layout.SUBCLUSTERS) & _ALL & ~mask
    if allocated:
        ones |= mask
    else:
        zeros |= mask
    return _signed(ones | zeros << layout.SUBCLUSTERS)


def is_allocated(bitmap: int, number: int) -> bool:
    """Say whether a subcluster's bytes are the cluster's own."""
    return bool(bitmap >> number & 1)


def reads_zero(bitmap: int, number: int) -> bool:
    """Say whether a subcluster reads as zeros, whatever lies below."""
    return bool(bitmap >> (layout.SUBCLUSTERS + number) & 1)


def _signed(word: int) -> int:
    """Return a word of 64 bits as the int64 that tables have."""
    return word - (1 << 64) if word >> 63 else word


class Subclusters(Clusters):
    """The contents of one image with extended L2 entries. One thread, one writer."""

    @property
    def _part(self) -> int:
        """Bytes of a subcluster."""
        return self._size // layout.SUBCLUSTERS

    def _zero(self, index: int, where: Where) -> None:
        """Have clusters of one L2 table read as zeros."""
        table = self._ledger.find(index)
        if table is None and not self.has_backing:
            return
        table = table or self._ledger.make(index)
        entries, bitmaps = table.entries[where], table.bitmaps[where]
        zero = np.int64(layout.SUBCLUSTERS_ZERO)
        changed = (entries != 0) | ((bitmaps != zero) & (self.has_backing | (bitmaps != 0)))
        if changed.any():
            entries, bitmaps = np.where(changed, np.int64(0), entries), np.where(changed, zero, bitmaps)
            self._ledger.replace(index, where, entries, bitmaps)

    def hide(self, offset: int, length: int) -> None:
        """Have what is absent in clusters, whole but for the disk's last, read as zeros, and leave the rest."""
        if not self.has_backing:
            return
        index, first = self._ledger.locate(offset)
        count = units.divide_up(length, self._size)
        table = self._ledger.make(index)
        entries, bitmaps = table.entries[first : first + count], table.bitmaps[first : first + count]
        allocated = bitmaps & _ALL
        hidden = np.where(entries & layout.COMPRESSED, bitmaps, allocated | (allocated ^ _ALL) << layout.SUBCLUSTERS)
        if (hidden != bitmaps).any():
            self._ledger.replace(index, slice(first, first + count), entries.copy(), hidden)

    def store_part(self, offset: int, data: memoryview) -> None:
        """Write a part of one cluster, whose rest stays as it reads, in the cluster's own place if it has one."""
        entry, bitmap = self._ledger.entry(offset), self._ledger.bitmap(offset)
        if entry != 0 and not is_own(entry):
            super().store_part(offset, data)
            return
        start = units.round_down(offset, self._size)
        low, high = (offset - start) // self._part, units.divide_up(offset - start + len(data), self._part)
        first, data = self._widened(start, offset - start, data, bitmap)
        host = entry & layout.OFFSET_MASK
        if entry == 0:
            host = self._ledger.allocate(1)[0] * self._size
        fsops.pwrite(self._fd, data, host + first)
        self._set(start, host | layout.COPIED, marked(bitmap, low, high, allocated=True))

    def zero_part(self, offset: int, length: int) -> None:
        """Have a part of one cluster read as zeros: whole subclusters by the bitmap, the rest by bytes."""
        entry, bitmap = self._ledger.entry(offset), self._ledger.bitmap(offset)
        if entry == bitmap == 0 and not self.has_backing:
            return
        if entry != 0 and not is_own(entry):
            self.store_part(offset, memoryview(bytes(length)))
            return
        start = units.round_down(offset, self._size)
        begin, end = offset - start, offset - start + length
        low = units.divide_up(begin, self._part)
        high = units.divide_up(end, self._part) if start + end == self.size_bytes else end // self._part
        if low > high:
            self._zero_within(start, begin, end, bitmap)
            return
        self._zero_within(start, begin, min(low * self._part, end), bitmap)
        self._zero_within(start, high * self._part, end, bitmap)
        if low < high:
            entry = self._ledger.entry(offset)
            bitmap = marked(self._ledger.bitmap(offset), low, high, allocated=False)
            self._set(start, entry if bitmap & _ALL else 0, bitmap)

    def hide_part(self, offset: int, length: int) -> None:
        """Have what is absent in a part of one cluster read as zeros, and leave the rest."""
        if not self.has_backing or self._ledger.entry(offset) & layout.COMPRESSED:
            return
        start = units.round_down(offset, self._size)
        at, end = offset - start, offset - start + length
        while at < end:
            number = at // self._part
            upto = min(end, (number + 1) * self._part)
            bitmap = self._ledger.bitmap(offset)
            if not is_allocated(bitmap, number) and not reads_zero(bitmap, number):
                self.zero_part(start + at, upto - at)
            at = upto

    def _filled(self, index: int, first: int, entries: Int64Array) -> None:
        """Take note that own clusters, those of an L2 table from first on, were overwritten as a whole."""
        table = self._ledger.make(index)
        if (table.bitmaps[first : first + len(entries)] != _ALL).any():
            self._ledger.replace(index, slice(first, first + len(entries)), entries)

    def _set(self, start: int, entry: int, bitmap: int) -> None:
        if (entry, bitmap) != (self._ledger.entry(start), self._ledger.bitmap(start)):
            index, within = self._ledger.locate(start)
            where = slice(within, within + 1)
            self._ledger.replace(index, where, np.array([entry], np.int64), np.array([bitmap], np.int64))

    def _zero_within(self, start: int, begin: int, end: int, bitmap: int) -> None:
        """Zero less than a subcluster, by bytes: [begin, end) of the cluster at guest offset start."""
        number = begin // self._part
        if begin >= end or reads_zero(bitmap, number):
            return
        if is_allocated(bitmap, number) or self.has_backing:
            self.store_part(start + begin, memoryview(bytes(end - begin)))

    def _widened(self, start: int, begin: int, data: memoryview, bitmap: int) -> tuple[int, memoryview]:
        """Return data, and where in the cluster it begins, with the rest of subclusters that aren't allocated yet."""
        end = begin + len(data)
        first, last = begin // self._part, (end - 1) // self._part
        head = tail = bytearray()
        if begin % self._part and not is_allocated(bitmap, first):
            head = self._read_part(start, first, bitmap)[: begin % self._part]
        if end % self._part and not is_allocated(bitmap, last):
            tail = self._read_part(start, last, bitmap)[end % self._part :]
        return begin - len(head), memoryview(b"".join((head, data, tail))) if head or tail else data

    def _read_part(self, start: int, number: int, bitmap: int) -> bytearray:
        """Return what a subcluster that isn't allocated reads as."""
        if reads_zero(bitmap, number):
            return bytearray(self._part)
        return self._read_beneath(start + number * self._part, self._part)

    def _read(self, start: int) -> bytearray:
        """Return what the cluster at a guest offset reads as now, padded beyond the disk's end."""
        entry, bitmap = self._ledger.entry(start), self._ledger.bitmap(start)
        if entry & layout.COMPRESSED:
            return self._read_packed(entry)
        content = self._read_host(entry & layout.OFFSET_MASK, self._size) if entry else bytearray(self._size)
        for number in range(layout.SUBCLUSTERS):
            if not is_allocated(bitmap, number):
                at = number * self._part
                content[at : at + self._part] = self._read_part(start, number, bitmap)
        return content
