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

from snapd import direct, errors, fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2.checking import repair
from snapd.qcow2.format import header, layout, locks
from snapd.qcow2.reading import image
from snapd.qcow2.reading.chain import Chain
from snapd.qcow2.writing import bulk, clusters, ledger, packing, subclusters


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
        kind = subclusters.Subclusters if self.header.extended_l2 else clusters.Clusters
        self._clusters = kind(fd, path.name, self._ledger, backing)
        self._output: direct.Output | None = None
        self._unsynced = False
        self._broken = False

    @classmethod
    def open(cls, path: pathlib.Path, backing: Chain | None = None) -> Self:
        """Open an image for writing. backing is what lies below it, for clusters that are written in part.

        One that is marked dirty has its refcounts rebuilt first. Raises errors.ImageRefused for what is no image that
        the engine may write, errors.ImageBusy if somebody has it open, errors.Corrupt, errors.StorageFailed.
        """
        with fsops.translated(path):
            fd = _open_alone(path)
            try:
                if ledger.is_only_dirty(header.read(fd, os.fstat(fd).st_size)):
                    # Who left it so wrote no refcounts: what they say must not be trusted when clusters are taken.
                    os.close(fd)
                    fd = -1
                    repair.repair(path, leaks_only=False)
                    fd = _open_alone(path)
                writer = cls(path, fd, backing)
                writer._ledger.clear_autoclear()
            except BaseException:
                if fd >= 0:
                    os.close(fd)
                raise
            return writer

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk that the guest sees."""
        return self._clusters.size_bytes

    @property
    def cluster_size(self) -> int:
        """Bytes."""
        return self.header.cluster_size

    # --- what callers write -------------------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write data at offset; both offset and length are multiples of 512.

        Raises errors.InvalidField, errors.OutOfRange, errors.Corrupt, errors.StorageFull, errors.StorageFailed.
        """
        self._write(offset, memoryview(data).cast("B"), self._clusters.putting)

    def write_direct(self, offset: int, data: memoryview) -> None:
        """Write as `write` does, past the page cache where the file system has a way; data is of a `direct.buffer`."""
        if self._output is None:
            self._output = direct.Output(self._fd)
        output = self._output
        self._write(offset, data, lambda piece: lambda host, at, n: output.pwrite(piece[at : at + n], host))

    def write_compressed(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write whole clusters, compressed where that makes them shorter; zeros take no place. Raises as `write`."""
        packed = packing.pack(data, self.cluster_size, self.header.compression_type)
        self.write_packed(offset, data, packed)

    def write_packed(self, offset: int, data: bytes | bytearray | memoryview, packed: packing.Packed) -> None:
        """Write whole clusters of which `packing.pack` returned `packed`. Raises as `write`."""
        view = memoryview(data).cast("B")
        self._require_whole(offset, len(view))
        size = self.cluster_size
        with self._changing(offset, len(view)):
            for start, length, _ in self._pieces(offset, len(view)):
                at = start - offset
                part = packed[at // size : units.divide_up(at + length, size)]
                self._clusters.store_packed(start, view[at : at + length], part)

    def copy_extents(self, fd: int, start: Int64Array, length: Int64Array, source: Int64Array) -> None:
        """Take extents, whole clusters each, from another file inside the kernel, sharing blocks where that can be.

        start: guest offsets, ascending and disjoint; source: offsets in the other file; all in bytes and equally many.
        The disk's last cluster may be cut short by its end. Raises errors.InvalidField for what isn't whole clusters,
        and what `write` raises.
        """
        if len(start) == 0:
            return
        end = int(start[-1] + length[-1])
        first = int(start[0])
        self._require_whole(first, end - first)
        if ((start[1:] % self.cluster_size != 0) | (length[:-1] % self.cluster_size != 0)).any():
            raise errors.InvalidField(field="start", problem="some extents are not whole clusters")
        rest = end % self.cluster_size
        with self._changing(first, end - first):
            length = length.copy()
            length[-1] -= rest
            bulk.adopt(self._fd, self._ledger, fd, start, length, source)
            if rest:
                data = _read_exactly(fd, rest, int(source[-1] + length[-1]))
                self._clusters.store_part(end - rest, data)

    def write_zeroes(self, offset: int, length: int) -> None:
        """Have a range read as zeros, whatever lies below. Whole clusters give their space back. Raises as `write`."""
        with self._changing(offset, length):
            for start, count, whole in self._pieces(offset, length):
                if whole or self._is_last(start, count):
                    self._clusters.zero(start, count)
                else:
                    self._clusters.zero_part(start, count)

    def zero_extents(self, start: Int64Array, length: Int64Array) -> None:
        """Have many ranges, ascending and disjoint, read as zeros, as `write_zeroes` does."""
        size = self.cluster_size
        first, last = (start + size - 1) // size, (start + length) // size
        inside = first < last
        if inside.any():
            begin, count = first[inside], (last - first)[inside]
            with self._changing(int(begin[0]) * size, int(begin[-1] + count[-1] - begin[0]) * size):
                for extent, within in bulk.each_cluster(count):
                    self._clusters.zero_many(begin[extent] + within)
        edges = np.where(inside, first * size, start + length), np.where(inside, last * size, start + length)
        for low, high in ((start, edges[0]), (edges[1], start + length)):
            for number in np.flatnonzero(low < high).tolist():
                self.write_zeroes(int(low[number]), int(high[number] - low[number]))

    def hide_backing(self, offset: int, length: int) -> None:
        """Have what is absent in a range read as zeros, whatever lies below, and leave the rest. Raises as `write`."""
        with self._changing(offset, length):
            for start, count, whole in self._pieces(offset, length):
                if whole or self._is_last(start, count):
                    self._clusters.hide(start, count)
                else:
                    self._clusters.hide_part(start, count)

    def discard(self, offset: int, length: int) -> None:
        """Give back the clusters that lie wholly in the range; they read as zeros. Raises as `write`."""
        first = units.round_up(offset, self.cluster_size)
        end = offset + length
        last = end if end == self.size_bytes else units.round_down(end, self.cluster_size)
        if first < last:
            self.write_zeroes(first, last - first)

    def resize(self, size_bytes: int, *, force: bool = False) -> None:
        """Give the disk another size; what is new reads as zeros, what is cut off is gone. The flush makes it the size.

        Raises errors.InvalidField for a size that the format can't hold, errors.DataBeyondEnd if data would go, unless
        forced: what shows of the backing file counts, and of data that the new end cuts through no byte is looked at.
        """
        entries = header.l1_entries_for(size_bytes, self.header.cluster_bits, self.header.entry_size)
        if size_bytes < 0 or size_bytes % units.SECTOR or entries * layout.ENTRY_SIZE > layout.L1_BYTES_MAX:
            raise errors.InvalidField(field="size_bytes", problem=f"{size_bytes} bytes are no disk that qcow2 can hold")
        old = self.size_bytes
        if size_bytes > old:
            with self._guarded():
                self._ledger.grow(size_bytes)
                # A shrinking that was killed, or another writer, may have left entries beyond the end.
                self._ledger.drop_beyond(units.round_up(old, self.cluster_size))
            self._clusters.size_bytes = size_bytes
            # Beyond its end a backing file shows nothing.
            shown = size_bytes if self._backing is None else min(size_bytes, self._backing.size_bytes)
            if self._ledger.entry(units.round_down(old, self.cluster_size)):
                # Another writer may have left anything in the part of the last cluster that the disk didn't reach.
                shown = max(shown, min(size_bytes, units.round_up(old, self.cluster_size)))
            self.write_zeroes(old, max(old, shown) - old)
            self._ledger.size_bytes = size_bytes
        elif size_bytes < old:
            if not force and self._clusters.holds_data(size_bytes, old):
                raise errors.DataBeyondEnd(name=self.path.name, size_bytes=size_bytes)
            self._ledger.size_bytes = size_bytes
            kept = units.round_up(size_bytes, self.cluster_size)
            self.write_zeroes(size_bytes, min(kept, old) - size_bytes)
            with self._guarded():
                self._ledger.drop_beyond(kept)
            self._clusters.size_bytes = size_bytes
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
        if self._output is not None:
            self._output.close()
            self._output = None
        if self._fd >= 0:
            locks.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Flush and let go of the file, which has no leaks then, whatever happens. Closing twice does nothing."""
        if self._fd < 0:
            return
        try:
            self.flush()
            with self._guarded():
                self._ledger.conclude()
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
            problem = f"offset {offset} and length {length} are not multiples of {units.SECTOR}"
            raise errors.InvalidField(field="offset", problem=problem)
        if not 0 <= offset <= self.size_bytes - length:
            raise errors.OutOfRange(name=self.path.name, offset=offset, length=length, size_bytes=self.size_bytes)
        with self._guarded():
            self._unsynced = True
            yield

    def _write(self, offset: int, view: memoryview, putting: Callable[[memoryview], clusters.Put]) -> None:
        with self._changing(offset, len(view)):
            for start, length, whole in self._pieces(offset, len(view)):
                piece = view[start - offset : start - offset + length]
                if whole:
                    self._clusters.store(start, length, putting(piece))
                else:
                    self._clusters.store_part(start, piece)

    def _require_whole(self, offset: int, length: int) -> None:
        end = offset + length
        if offset % self.cluster_size or (end % self.cluster_size and end != self.size_bytes):
            raise errors.InvalidField(field="offset", problem=f"{length} bytes at {offset} are not whole clusters")

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
        return offset % self.cluster_size == 0 and offset + length == self.size_bytes


def _open_alone(path: pathlib.Path) -> int:
    """Open an image's file for writing and keep others out. Raises errors.ImageRefused, errors.ImageBusy, OSError."""
    fd = fsops.open_for_writing(path)
    try:
        image.require_regular(fd)
        locks.exclusive(fd, path.name)
    except BaseException:
        locks.close(fd)
        raise
    return fd


def _read_exactly(fd: int, length: int, offset: int) -> memoryview:
    data = os.pread(fd, length, offset)
    if len(data) != length:
        raise OSError(errno.EIO, "the source ends before the range that is to be copied")
    return memoryview(data)
