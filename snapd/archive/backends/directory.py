"""A store in a folder of a local or mounted file system: the archive's default.

An object is written under a temporary name that begins with a dot, fsynced, linked to its own, and its folder fsynced.
Folders are made when needed and removed when empty.

A folder on which nothing is mounted looks like an empty store, and one that is mounted again a moment later like one
of which something has vanished. So whatever is looked up is looked up in a root that is held open, and in which the
store's marker was found: what isn't there then isn't in the store.
"""

import datetime
import itertools
import os
import pathlib
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from snapd import direct, errors, fsops, units
from snapd.archive.backends import backend

_BATCH: Final = 4 * units.MIB
"""Bytes of an object that are collected, and written at once past the page cache, since nobody reads them soon."""

_NAME_LENGTH: Final = 8
"""Random bytes in a temporary name. The process's number wouldn't do: in a container the next process has it too."""

_ATTEMPTS: Final = 8
"""How often a folder is made again when a deletion has just removed it for being empty."""


class DirectoryBackend:
    """A backend.Backend on a folder."""

    def __init__(self, root: pathlib.Path, *, make: bool = True, marker: str | None = None) -> None:
        """Use the folder `root`, made if it isn't there and may be; else errors.ArchiveUnreachable is raised.

        marker is the key of an object that is in the store from its first day to its last. Without one an empty folder
        is an empty store.
        """
        self.settling = datetime.timedelta(0)
        self._root = root
        self._marker = marker
        self._lock = threading.Lock()
        self._durable_folders = {root}
        if not make and not root.is_dir():
            raise errors.ArchiveUnreachable(problem=f"there is no folder {root}: is it mounted?")
        with backend.translated(str(root)):
            fsops.make_directory(root)
            # What an earlier process put there, and died before it was durable, is about to be relied on.
            fsops.sync_directory(root)

    def upload(self, key: str) -> "DirectoryUpload":
        path = self._path(key)
        self._require_root(key)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(_NAME_LENGTH)}.tmp")
        with backend.translated(key):
            for attempt in itertools.count(1):
                try:
                    self._make_folder(path.parent)
                    fd = fsops.create(temporary)
                    break
                except FileNotFoundError as error:
                    if attempt == _ATTEMPTS or not self._root.is_dir():
                        raise self._gone() from error
                    self._forget_folder(path.parent)
        return DirectoryUpload(self, key, fd, temporary, path)

    def put(self, key: str, chunks: Iterable[backend.Bytes]) -> None:
        upload = self.upload(key)
        try:
            for chunk in chunks:
                upload.append([chunk])
            upload.finish()
        finally:
            upload.discard()

    def publish(self, key: str, temporary: pathlib.Path, path: pathlib.Path) -> None:
        """Give a finished file its name unless the name is taken."""
        try:
            fsops.publish_new(temporary, path)
        except FileExistsError as error:
            raise errors.AlreadyExists(resource_type="object", name=key) from error
        except FileNotFoundError as error:
            raise self._gone() from error
        # It may have been linked below what a mount uncovered, and perhaps covers again.
        if self._marker is not None and self._status(key) is None:
            raise self._gone()

    def _require_root(self, key: str) -> None:
        """Raise errors.ArchiveUnreachable if what lies at the root isn't the store, for a change at a key."""
        if self._marker is not None and key != self._marker:
            with self._held(key):
                pass

    def _gone(self) -> errors.ArchiveUnreachable:
        return errors.ArchiveUnreachable(problem=f"what lay in {self._root} is gone: it isn't mounted any more")

    def get(self, key: str) -> bytes:
        with backend.translated(key), self._opened(key) as fd:
            return _read(key, fd, 0, os.fstat(fd).st_size)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with backend.translated(key), self._opened(key) as fd:
            return _read(key, fd, offset, length)

    def size(self, key: str) -> int | None:
        found = self._status(key)
        return None if found is None else found.st_size

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for path, size_bytes in self._files(prefix):
            if not path.name.startswith("."):
                yield path.relative_to(self._root).as_posix(), size_bytes

    def folders(self, prefix: str) -> Iterator[str]:
        try:
            with self._held(prefix) as root:
                found = [name for name, size_bytes in _scan(root, prefix) if size_bytes is None]
        except errors.NotFound:
            return
        # A folder that has just lost its last object, or waits for its first one, holds no key.
        yield from (name for name in found if any(True for _ in self.list(f"{prefix}{name}/")))

    def modified(self, key: str) -> datetime.datetime | None:
        found = self._status(key)
        return None if found is None else _time(found)

    def now(self) -> datetime.datetime:
        # A file's own time: on a network file system the server's clock counts.
        path = self._root / f".now.{secrets.token_hex(_NAME_LENGTH)}.tmp"
        with backend.translated(str(self._root)):
            fd = fsops.create(path)
            try:
                return _time(os.fstat(fd))
            finally:
                os.close(fd)
                fsops.unlink(path, durable=False)

    def delete(self, key: str) -> bool:
        path = self._path(key)
        with backend.translated(key):
            try:
                removed = fsops.unlink(path)
            except FileNotFoundError:
                # The file went, and then its folder, before that could be made durable: nothing is left to do, unless
                # it is the store that went.
                self._require_root(key)
                removed = True
            except (NotADirectoryError, IsADirectoryError):
                return False
            self.remove_empty(path.parent)
        if not removed and self._status(key) is not None:
            raise self._gone()
        return removed

    def drop_cache(self, key: str) -> None:
        with backend.translated(key), self._opened(key) as fd:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def discard_unfinished(self, prefix: str) -> int:
        count = 0
        with backend.translated(prefix), self._held(prefix) as root:
            for path, _ in self._files(prefix):
                if path.name.startswith(".") and path.name.endswith(".tmp"):
                    count += fsops.unlink(path, durable=False)
            top = prefix.removesuffix("/")
            for folder, has_files in _folders(root, top):
                if has_files:
                    # What an earlier process linked or removed, and died before it synced, is about to be relied on.
                    self._sync(self._root / folder)
                elif folder != top:
                    self.remove_empty(self._root / folder)
        return count

    def _sync(self, folder: pathlib.Path) -> None:
        try:
            fsops.sync_directory(folder)
        except FileNotFoundError as error:
            raise self._gone() from error

    def free_bytes(self) -> int | None:
        with backend.translated(str(self._root)):
            found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize

    def _path(self, key: str) -> pathlib.Path:
        return self._root / backend.check_key(key)

    @contextmanager
    def _held(self, key: str) -> Iterator[int]:
        """Hold the root open for a look at key, and raise errors.ArchiveUnreachable if it isn't the store's."""
        try:
            with backend.translated(str(self._root)):
                root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except errors.NotFound as error:
            if self._marker is None:
                raise
            raise self._gone() from error
        try:
            if self._marker is not None and key != self._marker and _status(root, self._marker) is None:
                raise self._gone()
            yield root
        finally:
            os.close(root)

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        backend.check_key(key)
        with self._held(key) as root:
            fd = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
        try:
            yield fd
        finally:
            os.close(fd)

    def _status(self, key: str) -> os.stat_result | None:
        """Return what is known of an object, or None if there is none."""
        backend.check_key(key)
        try:
            with self._held(key) as root:
                found = _status(root, key)
        except errors.NotFound:
            return None
        return found if found is not None and stat.S_ISREG(found.st_mode) else None

    def _make_folder(self, folder: pathlib.Path) -> None:
        # Whoever finds a folder can't know whether its name is durable yet: another thread may be about to sync it, or
        # a process may have died before it did. So each process syncs each folder's parent once.
        with self._lock:
            missing = list(
                itertools.takewhile(lambda path: path not in self._durable_folders, (folder, *folder.parents))
            )
            for path in reversed(missing):
                # Never with its parents: the root was there, and made anew it would hide that the store is away.
                fsops.make_subdirectory(path)
                self._durable_folders.add(path)

    def _forget_folder(self, folder: pathlib.Path) -> None:
        """Have a folder made again that is gone: somebody removed it for being empty, or put another store in place."""
        with self._lock:
            while folder != self._root:
                self._durable_folders.discard(folder)
                folder = folder.parent

    def remove_empty(self, folder: pathlib.Path) -> None:
        """Remove a folder below the root, and those above it, as far as they are empty."""
        while folder != self._root:
            with self._lock:
                if not fsops.remove_directory(folder):
                    return
                self._durable_folders.discard(folder)
            folder = folder.parent

    def _files(self, prefix: str) -> Iterator[tuple[pathlib.Path, int]]:
        """Yield path and length of each regular file whose key begins with prefix, unfinished ones too."""
        parent, _, start = prefix.rpartition("/")
        pending = [parent]
        try:
            with self._held(prefix) as root:
                while pending:
                    folder = pending.pop()
                    for name, size_bytes in _scan(root, folder):
                        if not name.removeprefix(".").startswith(start):
                            continue
                        path = f"{folder}/{name}" if folder else name
                        if size_bytes is None:
                            pending.append(path)
                        else:
                            yield self._root / path, size_bytes
                    start = ""
        except errors.NotFound:
            return


class DirectoryUpload:
    """A backend.Upload into a file."""

    def __init__(self, store: DirectoryBackend, key: str, fd: int, temporary: pathlib.Path, path: pathlib.Path) -> None:
        """Write to fd, open on temporary, which becomes path."""
        self._store = store
        self._key = key
        self._fd: int | None = fd
        self._temporary: pathlib.Path | None = temporary
        self._path = path
        self._output = direct.Output(fd)
        self._collected = direct.buffer(_BATCH)
        self._count = 0
        self._written = 0

    def append(self, buffers: Sequence[backend.Bytes]) -> None:
        assert self._fd is not None, "append after the end"
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest:
                taken = rest[: _BATCH - self._count]
                self._collected[self._count : self._count + len(taken)] = taken
                self._count += len(taken)
                rest = rest[len(taken) :]
                if self._count == _BATCH:
                    self._write()

    def finish(self) -> None:
        assert self._fd is not None, "finish after the end"
        assert self._temporary is not None, "finish after the end"
        self._write()
        with backend.translated(self._key):
            fsops.fsync(self._fd)
            self._close()
            self._store.publish(self._key, self._temporary, self._path)
            self._temporary = None

    def discard(self) -> None:
        self._close()
        if self._temporary is not None:
            with backend.translated(self._key):
                fsops.unlink(self._temporary, durable=False)
                self._store.remove_empty(self._temporary.parent)
            self._temporary = None

    def _write(self) -> None:
        with backend.translated(self._key):
            self._output.pwrite(self._collected[: self._count], self._written)
        self._written += self._count
        self._count = 0

    def _close(self) -> None:
        self._output.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _time(status: os.stat_result) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC)


def _status(root: int, key: str) -> os.stat_result | None:
    """Return what is known of a file below a root, or None if there is none."""
    try:
        with backend.translated(key):
            return os.stat(key, dir_fd=root, follow_symlinks=False)
    except errors.NotFound:
        return None


def _scan(root: int, folder: str) -> list[tuple[str, int | None]]:
    """Return names and lengths of the files in a folder below a root, and None for folders; sorted by name."""
    found: list[tuple[str, int | None]] = []
    try:
        with backend.translated(folder):
            fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            found.append((entry.name, None))
                        elif entry.is_file(follow_symlinks=False):
                            with suppress(FileNotFoundError):
                                found.append((entry.name, entry.stat(follow_symlinks=False).st_size))
            finally:
                os.close(fd)
    except errors.NotFound:
        return []
    return sorted(found)


def _folders(root: int, folder: str) -> Iterator[tuple[str, bool]]:
    """Yield the folders at and below one that have files, or nothing, the deepest first; and if they have files."""
    found = _scan(root, folder)
    for name, size_bytes in found:
        if size_bytes is None:
            yield from _folders(root, f"{folder}/{name}" if folder else name)
    if not found or any(size_bytes is not None for _, size_bytes in found):
        yield folder, bool(found)


def _read(key: str, fd: int, offset: int, length: int) -> bytes:
    """Return exactly length bytes at offset. The kernel gives at most 2 GiB at once; objects are far smaller."""
    data = os.pread(fd, length, offset)
    if len(data) < length:
        # A signal can cut a read short, the end of the file too: only the second gives nothing on the next attempt.
        parts = [data]
        while (missing := length - sum(map(len, parts))) > 0:
            more = os.pread(fd, missing, offset + length - missing)
            if not more:
                raise errors.Corrupt(what=key, problem=f"it ends before byte {offset + length}")
            parts.append(more)
        data = b"".join(parts)
    return data
