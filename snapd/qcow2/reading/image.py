"""One image file, read only: its header, its block map, its compressed clusters. Never looks at the backing file.

Safe for any number of threads: all reading is positional, and what is cached is computed whole before it is kept.
"""

import errno
import os
import pathlib
import stat
from types import TracebackType
from typing import Self

from snapd import blockmap, direct, errors, fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2.format import bitmaps, header, layout, locks, snapshots
from snapd.qcow2.reading import extents, tables


def _open_regular(path: pathlib.Path) -> int:
    """Open a regular file for reading, following no link and waiting for no FIFO.

    Raises errors.ImageRefused, OSError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise errors.ImageRefused(problem="the path is not a regular file") from error
        raise
    try:
        require_regular(fd)
    except errors.ImageRefused:
        os.close(fd)
        raise
    return fd


def require_regular(fd: int) -> None:
    """Raise errors.ImageRefused unless an open file is a regular one."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise errors.ImageRefused(problem="the path is not a regular file")


class Image:
    """A qcow2 file that nobody writes while it is open here. Close it, or use it as a context manager."""

    def __init__(
        self, path: pathlib.Path, fd: int, file_size: int, parsed: header.Header, direct_fd: int | None = None
    ) -> None:
        """Use `open`. Takes ownership of the descriptors."""
        self.path = path
        self.header = parsed
        self.file_size = file_size
        """Length of the file in bytes when it was opened."""
        self._fd = fd
        self._direct_fd = direct_fd
        self._shares_locks = False
        self._reader = extents.Reader(fd, path.name, file_size, parsed, direct_fd)
        self._tables: tuple[Int64Array, tables.Metadata] | None = None
        self._snapshots: tuple[snapshots.Snapshot, ...] | None = None
        self._active = parsed
        """The header as the file has it, whatever snapshot this shows."""

    @classmethod
    def open(cls, path: pathlib.Path, *, locked: bool = True, past_cache: bool = False) -> Self:
        """Open an image for reading, and keep others from writing it; not `locked` is for who keeps them out already.

        Its data is read `past_cache` where that is possible (see snapd.direct); its tables never are.
        Raises errors.ImageRefused for what is no image that the engine may read, errors.ImageBusy if somebody writes
        it, errors.StorageFailed if the file can't be opened or read.
        """
        with fsops.translated(path):
            fd = _open_regular(path)
            try:
                if locked:
                    locks.shared(fd, path.name)
                file_size = os.fstat(fd).st_size
                parsed = header.read(fd, file_size)
                return cls(path, fd, file_size, parsed, direct.reopen(fd) if past_cache else None)
            except BaseException:
                locks.close(fd)
                raise

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk that the guest sees."""
        return self.header.size_bytes

    @property
    def cluster_size(self) -> int:
        """Bytes."""
        return self.header.cluster_size

    @property
    def window_span(self) -> int:
        """Bytes of the disk that may be mapped at a time: fewer if its extents can be small."""
        shared = layout.SUBCLUSTERS if self.header.extended_l2 else 1
        return blockmap.span_for(self.cluster_size // shared)

    def block_map(self, start: int, length: int, *, places: bool = False) -> blockmap.BlockMap:
        """Return the extents of this file alone within [start, start + length), cut at the disk's ends; layer is 0.

        What is absent is unallocated here; `places` is that of tables.to_block_map. Raises errors.Corrupt for an
        entry that can't be what its writer meant.
        """
        end = min(start + length, self.size_bytes)
        start = max(start, 0)
        if end <= start:
            return blockmap.empty()
        size = self.cluster_size
        first = start // size
        with fsops.translated(self.path):
            l1, metadata = self.l1_and_metadata()
            maps = []
            for found in tables.runs(self._fd, self.header, l1, first, units.divide_up(end, size) - first, self._name):
                judged = tables.judge(found, self.header, self.file_size, metadata)
                tables.require_possible(found, judged, self._name)
                maps.append(tables.to_block_map(found, judged, size, places=places))
        return blockmap.clip(tables.concatenated(maps), start, end - start)

    def l1_and_metadata(self) -> tuple[Int64Array, tables.Metadata]:
        """Return the L1 table as it is on disk, found sound, and where metadata lies. Raises errors.Corrupt."""
        if self._tables is None:
            known = self.snapshots()
            others = [
                (self._active.l1_offset, self._active.l1_size * layout.ENTRY_SIZE),
                (self._active.snapshots_offset, snapshots.table_bytes(known)),
                *((each.l1_offset, each.l1_size * layout.ENTRY_SIZE) for each in known),
            ]
            self._tables = tables.read_l1(self._fd, self.header, self.file_size, self._name, others)
        return self._tables

    def snapshots(self) -> tuple[snapshots.Snapshot, ...]:
        """Return the internal snapshots. Raises errors.ImageRefused for a snapshot table that can't be."""
        if self._snapshots is None:
            with fsops.translated(self.path):
                self._snapshots = snapshots.read(self._fd, self.header, self.file_size)
        return self._snapshots

    def of_snapshot(self, id_or_name: str) -> "Image":
        """Return the image as an internal snapshot shows it: its disk's size and contents, on the same backing file.

        It has a descriptor of its own and is closed by itself, before or after this one; the locks last until both
        are. Raises errors.NotFound, errors.ImageRefused.
        """
        known = self.snapshots()
        seen = snapshots.header_of(snapshots.find(known, id_or_name), self.header)
        with fsops.translated(self.path):
            view = Image(self.path, os.dup(self._fd), self.file_size, seen)
        view._snapshots, view._active = known, self._active
        view._shares_locks = self._shares_locks = True
        return view

    def bitmaps(self) -> tuple[bitmaps.Bitmap, ...]:
        """Return the persistent bitmaps. Raises errors.ImageRefused for a directory of them that can't be."""
        with fsops.translated(self.path):
            return bitmaps.read(self._fd, self.header, self.file_size)

    def read_extents_into(self, extents: blockmap.BlockMap, offset: int, buffer: memoryview) -> None:
        """Put what extents of this file hold, of the kinds DATA and COMPRESSED, where it belongs in the buffer.

        The buffer begins with the disk's byte at `offset` and has room for all of them. Raises errors.Corrupt.
        """
        with fsops.translated(self.path):
            self._reader.read(extents, offset, buffer)

    def fileno(self) -> int:
        """Return the descriptor, for positional reading."""
        return self._fd

    def close(self) -> None:
        """Let go of the file. Closing twice does nothing."""
        if self._fd >= 0:
            if self._shares_locks:
                # They are the other one's too, and go with the last close.
                os.close(self._fd)
            else:
                locks.close(self._fd)
            self._fd = -1
            if self._direct_fd is not None:
                os.close(self._direct_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _name(self) -> str:
        return self.path.name
