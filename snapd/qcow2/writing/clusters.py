"""Bytes of guest clusters on their way into an image that is being written: which host clusters take them.

A cluster that is the image's own is overwritten in place; for others new ones are taken, and the ledger is told. Knows
of images with standard L2 entries; `subclusters` adds what extended ones do otherwise. When it comes to disk is the
ledger's business.
"""

import itertools
import os
from collections.abc import Callable

import numpy as np

from snapd import blockmap, errors, fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2.format import layout
from snapd.qcow2.reading import compressed
from snapd.qcow2.reading.chain import Chain
from snapd.qcow2.writing.ledger import Ledger
from snapd.qcow2.writing.mapping import Where
from snapd.qcow2.writing.packing import ZERO, Packed

Put = Callable[[int, int, int], None]
"""put(host offset, offset within the piece, length): writes that part of the caller's piece to the file, all bytes."""


class Clusters:
    """The contents of one image that is being written. One thread, one writer."""

    def __init__(self, fd: int, name: str, ledger: Ledger, backing: Chain | None) -> None:
        """Borrow everything. backing is what lies below, if it is known."""
        self._fd = fd
        self._name = name
        self._ledger = ledger
        self._header = ledger.header
        self._size = ledger.header.cluster_size
        self._backing = backing
        self.has_backing = backing is not None or ledger.header.backing_name is not None
        """Whether something shows through what is absent."""
        self.size_bytes = ledger.header.size_bytes
        """Bytes of the disk that the guest sees, as the writer has it."""

    # --- whole clusters of one L2 table -------------------------------------------------------------------------------

    def store(self, offset: int, length: int, put: Put) -> None:
        """Place whole clusters: over those that are the image's own, else in new ones."""
        index, first = self._ledger.locate(offset)
        count = length // self._size
        old = self._ledger.make(index).entries[first : first + count].copy()
        for low, high in _runs_to_store(old, self._size):
            if is_own(int(old[low])):
                put(int(old[low]) & layout.OFFSET_MASK, low * self._size, (high - low) * self._size)
                self._filled(index, first + low, old[low:high])
                continue
            at = low
            while at < high:
                cluster, got = self._ledger.allocate(high - at)
                put(cluster * self._size, at * self._size, got * self._size)
                hosts = np.arange(cluster, cluster + got, dtype=np.int64) * self._size
                where = slice(first + at, first + at + got)
                self._ledger.replace(index, where, hosts | layout.COPIED)
                at += got

    def zero(self, offset: int, length: int) -> None:
        """Have clusters, whole but for the disk's last, read as zeros."""
        index, first = self._ledger.locate(offset)
        self._zero(index, slice(first, first + units.divide_up(length, self._size)))

    def zero_many(self, numbers: Int64Array) -> None:
        """Have guest clusters, ascending, in whichever tables, read as zeros."""
        for index, _, within in self._ledger.by_table(numbers):
            self._zero(index, within)
            self._ledger.relieve()

    def _zero(self, index: int, where: Where) -> None:
        """Have clusters of one L2 table read as zeros."""
        table = self._ledger.find(index)
        if table is None and not self.has_backing:
            return
        if self._header.version == 2 and self.has_backing:
            per_table = self._header.table_entries
            for number in (index * per_table + np.arange(per_table)[where]).tolist():
                self._store_zeros(number * self._size)
            return
        old = (table or self._ledger.make(index)).entries[where]
        zero = 0 if self._header.version == 2 else layout.ZERO
        changed = (old != zero) & (self.has_backing | (old != 0))
        if changed.any():
            self._ledger.replace(index, where, np.where(changed, np.int64(zero), old))

    def hide(self, offset: int, length: int) -> None:
        """Have what is absent in clusters, whole but for the disk's last, read as zeros, and leave the rest."""
        index, first = self._ledger.locate(offset)
        count = units.divide_up(length, self._size)
        if not self.has_backing:
            return
        old = self._ledger.make(index).entries[first : first + count]
        if self._header.version == 2:
            for number in np.flatnonzero(old == 0).tolist():
                self._store_zeros(offset + number * self._size)
        elif (old == 0).any():
            self._ledger.replace(index, slice(first, first + count), np.where(old == 0, np.int64(layout.ZERO), old))

    def store_packed(self, offset: int, data: memoryview, packed: Packed) -> None:
        """Place clusters, whole but for the disk's last: the compressed streams densely, the others as they are.

        data is what they hold, of which `packed` says for each cluster how it is stored.
        """
        number = offset // self._size + np.arange(len(packed), dtype=np.int64)
        streams = [stream for stream in packed if stream]
        lengths = np.array([len(stream) for stream in streams], np.int64)
        if streams:
            places = self._ledger.allocate_packed(lengths.tolist())
            apart = [0, *(np.flatnonzero(np.diff(places) != lengths[:-1]) + 1).tolist(), len(streams)]
            for low, high in itertools.pairwise(apart):
                fsops.pwritev(self._fd, streams[low:high], int(places[low]))
            is_packed = np.array([bool(stream) for stream in packed])
            self._ledger.scatter(number[is_packed], compressed.entries(places, lengths, self._header.cluster_bits))
        how = np.array([0 if stream == ZERO else 1 if stream is None else 2 for stream in packed])
        heads = [0, *(np.flatnonzero(np.diff(how)) + 1).tolist(), len(packed)]
        for low, high in itertools.pairwise(heads):
            begin, end = low * self._size, min(high * self._size, len(data))
            if how[low] == 0:
                self.zero(offset + begin, end - begin)
            elif how[low] == 1:
                self._store_plain(offset + begin, data[begin:end])

    def _store_plain(self, offset: int, data: memoryview) -> None:
        whole = units.round_down(len(data), self._size)
        if whole:
            self.store(offset, whole, self.putting(data[:whole]))
        if whole < len(data):
            self.store_part(offset + whole, data[whole:])

    # --- parts of one cluster -----------------------------------------------------------------------------------------

    def store_part(self, offset: int, data: memoryview) -> None:
        """Write a part of one cluster, whose rest stays as it reads."""
        entry = self._ledger.entry(offset)
        within = offset % self._size
        if is_own(entry):
            fsops.pwrite(self._fd, data, (entry & layout.OFFSET_MASK) + within)
            return
        cluster = self._read(offset - within)
        cluster[within : within + len(data)] = data
        self.store(offset - within, self._size, self.putting(memoryview(cluster)))

    def zero_part(self, offset: int, length: int) -> None:
        """Have a part of one cluster read as zeros."""
        entry = self._ledger.entry(offset)
        is_zero = (not self.has_backing) if entry == 0 else (entry & (layout.COMPRESSED | layout.ZERO)) == layout.ZERO
        if not is_zero:
            self.store_part(offset, memoryview(bytes(length)))

    def hide_part(self, offset: int, length: int) -> None:
        """Have what is absent in a part of one cluster read as zeros, and leave the rest."""
        if self._ledger.entry(offset) == 0 and self.has_backing:
            self.store_part(offset, memoryview(bytes(length)))

    # --- looking ------------------------------------------------------------------------------------------------------

    def holds_data(self, start: int, end: int) -> bool:
        """Say whether clusters that a guest range touches have data of their own, or show some of the backing file."""
        if self._ledger.holds_data(start):
            return True
        if self._backing is None:
            return False
        end = min(end, self._backing.size_bytes)
        span = self._size * self._header.table_entries
        for at in range(start, end, span):
            below = self._backing.block_map(at, min(span, end - at))
            numbers = blockmap.touched_blocks(below.take(below.kind != blockmap.Kind.ZERO), self._size)
            if len(numbers) and self._ledger.shows_backing(numbers).any():
                return True
        return False

    # --- bytes --------------------------------------------------------------------------------------------------------

    def putting(self, data: memoryview) -> Put:
        """Return how to put the bytes of data."""
        return lambda host, at, n: fsops.pwrite(self._fd, data[at : at + n], host)

    def _store_zeros(self, offset: int) -> None:
        """Write a cluster of zeros: version 2 can't say zero, and what is absent shows the backing file."""
        self.store(offset, self._size, self.putting(memoryview(bytes(self._size))))

    def _filled(self, index: int, first: int, entries: Int64Array) -> None:
        """Take note that own clusters, those of an L2 table from first on, were overwritten as a whole."""

    def _read(self, start: int) -> bytearray:
        """Return what the cluster at a guest offset reads as now, padded beyond the disk's end."""
        entry = self._ledger.entry(start)
        if entry & layout.COMPRESSED:
            return self._read_packed(entry)
        if entry == 0:
            return self._read_beneath(start, self._size)
        if entry & layout.ZERO:
            return bytearray(self._size)
        return self._read_host(entry & layout.OFFSET_MASK, self._size)

    def _read_packed(self, entry: int) -> bytearray:
        header = self._header
        return bytearray(compressed.read(self._fd, self._name, entry, header.cluster_bits, header.compression_type))

    def _read_host(self, host: int, length: int) -> bytearray:
        """Return bytes of the file, padded beyond its end."""
        return bytearray(os.pread(self._fd, length, host).ljust(length, b"\0"))

    def _read_beneath(self, start: int, length: int) -> bytearray:
        """Return what lies below a guest range, zeros beyond the end of either."""
        content = bytearray(length)
        if not self.has_backing:
            return content
        if self._backing is None:
            raise errors.InvalidField(
                field="backing", problem=f"writing a part of a cluster of {self._name} needs the chain that lies below"
            )
        visible = min(length, self.size_bytes - start, self._backing.size_bytes - start)
        if visible > 0:
            self._backing.read_into(start, memoryview(content)[:visible])
        return content


def is_own(entry: int) -> bool:
    """Say whether an entry refers to a plain cluster that nothing else refers to."""
    return entry < 0 and not entry & (layout.COMPRESSED | layout.ZERO)


def _runs_to_store(entries: Int64Array, cluster_size: int) -> list[tuple[int, int]]:
    """Return (low, high) of the runs that go to one place: own clusters in a row, or clusters to be allocated."""
    if len(entries) == 1:
        return [(0, 1)]
    own = (entries & (layout.COPIED | layout.COMPRESSED | layout.ZERO)) == layout.COPIED
    follows = (own[1:] == own[:-1]) & (~own[1:] | (np.diff(entries) == cluster_size))
    starts = [0, *(np.flatnonzero(~follows) + 1).tolist()]
    return list(zip(starts, [*starts[1:], len(entries)], strict=True))
