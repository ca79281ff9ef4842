"""The exclusive writer of one image: guest ranges in, clusters and tables out, in an order that a kill can't hurt.

What is written lies in clusters that nothing on disk refers to. `flush` makes first those, their refcounts and new
tables durable, then writes the entries that refer to them, makes these durable, and only then lets go of what they
replaced. So a kill leaves leaked clusters at most. Overwriting a cluster that is the image's own happens in place.

Others are kept out by locks. Knows nothing of volumes.
"""

import errno
import os
import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import numpy as np

from snapd import errors, fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2 import compressed, header, image, layout, ledger, locks
from snapd.qcow2.chain import Chain

Put = Callable[[int, int, int], None]
"""put(host offset, offset within the piece, length): writes that part of the caller's piece to the file, all bytes."""


class Writer:
    """An image open for writing by one thread. Closing flushes; leaving its context by an error abandons it.

    After an error of the file system it takes nothing more, because nobody knows what reached the disk: abandon it,
    open the image again, and write again what was not flushed.
    """

    def __init__(self, path: pathlib.Path, fd: int, backing: Chain | None) -> None:
        """Use `open`. Takes ownership of the descriptor, borrows the chain."""
        self.path = path
        self._fd = fd
        self._ledger = ledger.Ledger(fd, path.name)
        self.header = self._ledger.header
        self._backing = backing
        self._has_backing = backing is not None or self.header.backing_name is not None
        self._bits = self.header.cluster_bits
        self._size_bytes = self.header.size_bytes
        self._unsynced = False
        self._broken = False

    @classmethod
    def open(cls, path: pathlib.Path, backing: Chain | None = None) -> Self:
        """Open an image for writing. backing is what lies below it, for clusters that are written in part.

        Raises errors.ImageRefused for what is no image that the engine may write, errors.ImageBusy if somebody has it
        open, errors.Corrupt, errors.StorageFailed.
        """
        with fsops.translated(path):
            fd = fsops.open_for_writing(path)
            try:
                image.require_regular(fd)
                locks.exclusive(fd, path.name)
                writer = cls(path, fd, backing)
                writer._ledger.clear_autoclear()
            except BaseException:
                os.close(fd)
                raise
            return writer

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk that the guest sees."""
        return self._size_bytes

    @property
    def cluster_size(self) -> int:
        """Bytes."""
        return self.header.cluster_size

    # --- what callers write -------------------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write data at offset; both offset and length are multiples of 512.

        Raises errors.OutOfRange, errors.Corrupt, errors.StorageFull, errors.StorageFailed.
        """
        view = memoryview(data).cast("B")
        with self._changing(offset, len(view)):
            for start, length, whole in self._pieces(offset, len(view)):
                piece = view[start - offset : start - offset + length]
                if whole:
                    self._store(start, length, self._putting(piece))
                else:
                    self._store_part(start, piece)

    def copy_from(self, fd: int, source_offset: int, offset: int, length: int) -> None:
        """Take whole clusters from another file, inside the kernel, sharing blocks where the file system can.

        Raises ValueError for a range that isn't whole clusters, and what `write` raises.
        """
        self._require_whole(offset, length)

        def put_from(start: int) -> Put:
            def put(host: int, at: int, n: int) -> None:
                source = source_offset + start - offset + at
                if not fsops.clone_range(fd, self._fd, source, host, n):
                    fsops.copy_range(fd, self._fd, source, host, n)

            return put

        with self._changing(offset, length):
            for start, count, whole in self._pieces(offset, length):
                if whole:
                    self._store(start, count, put_from(start))
                else:
                    self._store_part(start, _read_exactly(fd, count, source_offset + start - offset))

    def write_zeroes(self, offset: int, length: int) -> None:
        """Have a range read as zeros, whatever lies below. Whole clusters give their space back. Raises as `write`."""
        with self._changing(offset, length):
            for start, count, whole in self._pieces(offset, length):
                if whole or self._is_last(start, count):
                    self._zero_whole(start, count)
                elif not self._reads_zero(start):
                    self._store_part(start, memoryview(bytes(count)))

    def hide_backing(self, offset: int, length: int) -> None:
        """Have what is absent in a range read as zeros, whatever lies below, and leave the rest. Raises as `write`."""
        with self._changing(offset, length):
            for start, count, whole in self._pieces(offset, length):
                if whole or self._is_last(start, count):
                    self._zero_whole(start, count, absent_only=True)
                elif self._ledger.entry(start) == 0 and self._has_backing:
                    self._store_part(start, memoryview(bytes(count)))

    def discard(self, offset: int, length: int) -> None:
        """Give back the clusters that lie wholly in the range; they read as zeros. Raises as `write`."""
        first = units.round_up(offset, self.cluster_size)
        end = offset + length
        last = end if end == self._size_bytes else units.round_down(end, self.cluster_size)
        if first < last:
            self.write_zeroes(first, last - first)

    def resize(self, size_bytes: int) -> None:
        """Give the disk another size; what is new reads as zeros, what is cut off is gone. The flush makes it the size.

        Raises errors.InvalidField for a size that the format can't hold.
        """
        entries = header.l1_entries_for(size_bytes, self._bits)
        if size_bytes < 0 or size_bytes % units.SECTOR or entries * layout.ENTRY_SIZE > layout.L1_BYTES_MAX:
            raise errors.InvalidField(field="size_bytes", problem=f"{size_bytes} bytes are no disk that qcow2 can hold")
        old = self._size_bytes
        if size_bytes > old:
            with self._guarded():
                self._ledger.grow(size_bytes)
            self._size_bytes = size_bytes
            self.write_zeroes(old, size_bytes - old)
        elif size_bytes < old:
            cut = min(units.round_up(size_bytes, self.cluster_size), old)
            self.write_zeroes(size_bytes, cut - size_bytes)
            with self._guarded():
                self._ledger.drop_beyond(cut)
            self._size_bytes = size_bytes
        self._ledger.size_bytes = size_bytes
        self._unsynced = True

    # --- durability ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make everything written so far durable. Raises errors.StorageFull, errors.StorageFailed."""
        with self._guarded():
            if self._unsynced:
                self._ledger.write_back()
                self._unsynced = False

    def abandon(self) -> None:
        """Close without flushing: what was not flushed may be there or not, and leaks at most."""
        if self._fd >= 0:
            locks.release(self._fd)
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Flush and let go of the file. Closing twice does nothing."""
        if self._fd < 0:
            return
        try:
            self.flush()
        finally:
            self.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    # --- inside -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Translate what the file system says, and take nothing more after it."""
        if self._broken or self._fd < 0:
            raise errors.StorageFailed(path=str(self.path), problem="an earlier error left the writer unusable")
        self._broken = True
        with fsops.translated(self.path):
            yield
        self._broken = False

    @contextmanager
    def _changing(self, offset: int, length: int) -> Iterator[None]:
        if offset % units.SECTOR or length % units.SECTOR:
            raise ValueError(f"offset {offset} and length {length} must be multiples of {units.SECTOR}")
        if not 0 <= offset <= self._size_bytes - length:
            raise errors.OutOfRange(name=self.path.name, offset=offset, length=length, size_bytes=self._size_bytes)
        with self._guarded():
            self._unsynced = True
            yield

    def _require_whole(self, offset: int, length: int) -> None:
        end = offset + length
        if offset % self.cluster_size or (end % self.cluster_size and end != self._size_bytes):
            raise ValueError(f"{length} bytes at {offset} are not whole clusters")

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, whole): runs of whole clusters of one L2 table each, and parts of clusters.

        Between them, tables are written back when they take too much memory.
        """
        size = self.cluster_size
        span = size * self.header.table_entries
        end = offset + length
        while offset < end:
            if offset % size or end - offset < size:
                upto = min(end, units.round_down(offset, size) + size)
                yield offset, upto - offset, False
            else:
                upto = min(units.round_down(end, size), units.round_down(offset, span) + span)
                yield offset, upto - offset, True
            offset = upto
            self._ledger.relieve()

    def _is_last(self, offset: int, length: int) -> bool:
        """Say whether a range is the disk's last cluster, which the disk's end cuts short."""
        return offset % self.cluster_size == 0 and offset + length == self._size_bytes

    def _store(self, offset: int, length: int, put: Put) -> None:
        """Place whole clusters of one L2 table: over those that are the image's own, else in new ones."""
        index, first = self._ledger.locate(offset)
        count = length >> self._bits
        old = self._ledger.make(index).entries[first : first + count].copy()
        for low, high in _runs_to_store(old, self.cluster_size):
            if _is_own(int(old[low])):
                put(int(old[low]) & layout.OFFSET_MASK, low << self._bits, (high - low) << self._bits)
                continue
            at = low
            while at < high:
                cluster, got = self._ledger.allocate(high - at)
                put(cluster << self._bits, at << self._bits, got << self._bits)
                hosts = np.arange(cluster, cluster + got, dtype=np.int64) << self._bits
                self._ledger.replace(index, first + at, hosts | layout.COPIED)
                at += got

    def _store_part(self, offset: int, data: memoryview) -> None:
        """Write a part of one cluster, whose rest stays as it reads."""
        entry = self._ledger.entry(offset)
        within = offset % self.cluster_size
        if _is_own(entry):
            fsops.pwrite(self._fd, data, (entry & layout.OFFSET_MASK) + within)
            return
        cluster = self._read_cluster(offset - within, entry)
        cluster[within : within + len(data)] = data
        self._store(offset - within, self.cluster_size, self._putting(memoryview(cluster)))

    def _putting(self, data: memoryview) -> Put:
        """Return how to put the bytes of data."""
        return lambda host, at, n: fsops.pwrite(self._fd, data[at : at + n], host)

    def _read_cluster(self, start: int, entry: int) -> bytearray:
        """Return what the cluster at a guest offset reads as now, padded beyond the disk's end."""
        content = bytearray(self.cluster_size)
        if entry & layout.COMPRESSED:
            return bytearray(compressed.read(self._fd, self.path.name, entry, self._bits, self.header.compression_type))
        if entry == 0 and self._has_backing:
            if self._backing is None:
                raise ValueError("writing a part of a cluster needs the chain that lies below")
            visible = min(self.cluster_size, self._size_bytes - start, self._backing.size_bytes - start)
            if visible > 0:
                self._backing.read_into(start, memoryview(content)[:visible])
        elif entry != 0 and not entry & layout.ZERO:
            data = os.pread(self._fd, self.cluster_size, entry & layout.OFFSET_MASK)
            content[: len(data)] = data
        return content

    def _reads_zero(self, offset: int) -> bool:
        entry = self._ledger.entry(offset)
        if entry == 0:
            return not self._has_backing
        return not entry & layout.COMPRESSED and bool(entry & layout.ZERO)

    def _zero_whole(self, offset: int, length: int, *, absent_only: bool = False) -> None:
        """Have clusters of one L2 table, whole but for the disk's last, read as zeros."""
        index, first = self._ledger.locate(offset)
        count = units.divide_up(length, self.cluster_size)
        table = self._ledger.find(index)
        if table is None and not self._has_backing:
            return
        if self.header.version == 2 and self._has_backing:
            # Version 2 can't say zero, and what is absent shows the backing file.
            for start in range(offset, offset + length, self.cluster_size):
                if absent_only and self._ledger.entry(start) != 0:
                    continue
                self._store(start, self.cluster_size, self._putting(memoryview(bytes(self.cluster_size))))
            return
        old = (table or self._ledger.make(index)).entries[first : first + count]
        zero = 0 if self.header.version == 2 else layout.ZERO
        changed = (old == 0) if absent_only else (old != zero) & (self._has_backing | (old != 0))
        if changed.any():
            self._ledger.replace(index, first, np.where(changed, np.int64(zero), old))


def _is_own(entry: int) -> bool:
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


def _read_exactly(fd: int, length: int, offset: int) -> memoryview:
    data = os.pread(fd, length, offset)
    if len(data) != length:
        raise OSError(errno.EIO, "the source ends before the range that is to be copied")
    return memoryview(data)
