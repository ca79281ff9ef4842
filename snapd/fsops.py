"""The one door to files that change: every system call that alters a file or a folder is made here.

Each system call announces itself to an observer first, which may record it, fail it, have it move fewer bytes or kill
the process: that is how tests try a fault at every point. Once it is made, a witness hears of it, so that a test can
know what a power cut would leave. `point` names moments between calls. Reading is not this module's business.

Durability rules (POSIX promises none of them by itself): a file's bytes and mode are safe after `fsync`, its name after
`sync_directory` of its folder, and a file is published by `publish` only when both hold.
"""

import ctypes
import dataclasses
import errno
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from snapd import errors

FICLONERANGE = 0x4020940D
"""ioctl of linux/fs.h: share a range of another file's blocks."""

_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_SYNC_FILE_RANGE_WRITE = 0x02
_COPY_CHUNK = 1 << 22
_BUFFER = 1 << 20
_IOV_MAX = 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """A change that is about to be made."""

    name: str
    """The call ('pwrite', 'fsync', 'rename', …), or 'point'."""
    target: str
    """The path, the descriptor's number, or the point's name."""
    offset: int = 0
    length: int = 0
    source: str = ""
    """The path that a rename or a link begins at."""


Observer = Callable[[Operation], int | None]
"""May raise OSError in an operation's place; a number is the most bytes that a write or a copy moves in this go."""
Witness = Callable[[Operation], None]
_observers: list[Observer] = []
_witnesses: list[Witness] = []


def observe(observer: Observer | None, witness: Witness | None = None) -> None:
    """Have every operation announced to observer before, and to witness after it was made; None ends it."""
    _observers[:] = [] if observer is None else [observer]
    _witnesses[:] = [] if witness is None else [witness]


def _announce(
    name: str, target: str | int | os.PathLike[str], offset: int = 0, length: int = 0, source: str = ""
) -> Operation:
    """Tell the observer, and return the operation as it is to be made."""
    operation = Operation(name, str(target), offset, length, source)
    for observer in _observers:
        most = observer(operation)
        if most is not None:
            operation = dataclasses.replace(operation, length=max(1, min(most, length)))
    return operation


def _made(operation: Operation) -> None:
    """Tell the witness that an operation was made."""
    for witness in _witnesses:
        witness(operation)


def point(name: str) -> None:
    """Name a moment at which a kill is interesting."""
    _announce("point", name)


@contextmanager
def translated(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError of the block into StorageFull or StorageFailed for path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.StorageFull(path=str(path)) from error
        raise errors.StorageFailed(path=str(path), problem=error.strerror or str(error)) from error


# --- files ------------------------------------------------------------------------------------------------------------


def create(path: pathlib.Path, mode: int = 0o600) -> int:
    """Create a file that must not exist and return a descriptor for reading and writing."""
    operation = _announce("create", path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    _made(operation)
    return fd


def create_unnamed(path: pathlib.Path) -> int:
    """Create a file that has no name once this returns, and return a descriptor; `path` is taken for a moment."""
    fd = create(path)
    unlink(path, durable=False)
    return fd


def open_for_writing(path: pathlib.Path) -> int:
    """Open an existing regular file for reading and writing, following no link."""
    _announce("open", path)
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def pwrite(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of data at offset; the kernel may take it in several goes."""
    view = memoryview(data).cast("B")
    while view:
        operation = _announce("pwrite", fd, offset, len(view))
        written = os.pwrite(fd, view[: operation.length], offset)
        _made(dataclasses.replace(operation, length=written))
        view = view[written:]
        offset += written


def pwritev(fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
    """Write all of the buffers, one behind the other, at offset."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    while views:
        length = sum(map(len, views))
        operation = _announce("pwrite", fd, offset, length)
        taken = views[:_IOV_MAX] if operation.length == length else [views[0][: operation.length]]
        written = os.pwritev(fd, taken, offset)
        _made(dataclasses.replace(operation, length=written))
        offset += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


def truncate(fd: int, size_bytes: int) -> None:
    """Set a file's length; what is added reads as zeros and takes no space."""
    operation = _announce("truncate", fd, size_bytes)
    os.ftruncate(fd, size_bytes)
    _made(operation)


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Give back the space of a range, which then reads as zeros. Returns False where the file system can't."""
    operation = _announce("punch", fd, offset, length)
    if _libc.fallocate(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, offset, length) == 0:
        _made(operation)
        return True
    code = ctypes.get_errno()
    if code in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code))


def clone_range(source_fd: int, target_fd: int, source_offset: int, target_offset: int, length: int) -> bool:
    """Share a range between two files without copying. Returns False where the file system can't."""
    operation = _announce("clone", target_fd, target_offset, length)
    argument = b"".join(
        value.to_bytes(8, "little", signed=True) for value in (source_fd, source_offset, length, target_offset)
    )
    try:
        fcntl.ioctl(target_fd, FICLONERANGE, argument)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
            return False
        raise
    _made(operation)
    return True


def copy_range(source_fd: int, target_fd: int, source_offset: int, target_offset: int, length: int) -> None:
    """Copy a range between two files inside the kernel, or through a buffer where it refuses.

    The disk is kept busy meanwhile, so that an fsync afterwards has little to wait for; the kernel by itself would
    begin with it seconds later. Raises OSError with EIO if the source ends before the range does.
    """
    while length:
        operation = _announce("copy", target_fd, target_offset, min(length, _COPY_CHUNK))
        most = operation.length
        try:
            copied = os.copy_file_range(source_fd, target_fd, most, source_offset, target_offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            data = os.pread(source_fd, min(most, _BUFFER), source_offset)
            copied = os.pwrite(target_fd, data, target_offset) if data else 0
        if copied == 0:
            raise OSError(errno.EIO, "the source ends before the range that is to be copied")
        _made(dataclasses.replace(operation, length=copied))
        if copied >= _BUFFER:
            # Only begun and not waited for, so errors come out of the fsync; where the kernel can't, that does it all.
            _libc.sync_file_range(target_fd, target_offset, copied, _SYNC_FILE_RANGE_WRITE)
        source_offset += copied
        target_offset += copied
        length -= copied


def fsync(fd: int) -> None:
    """Make a file's bytes, length and mode durable. A failure is final: the pages are gone, so never retry it."""
    operation = _announce("fsync", fd)
    os.fsync(fd)
    _made(operation)


def fdatasync(fd: int) -> None:
    """Make a file's bytes durable, with what is needed to read them back. A failure is final."""
    operation = _announce("fdatasync", fd)
    os.fdatasync(fd)
    _made(operation)


def drop_cache(fd: int) -> None:
    """Sync a file, and have the next read of it come from the disk, as far as that can be had.

    After an fsync that failed, the kernel shows pages as clean that never reached the disk: what is built upon them is
    lost with the next power cut.
    """
    fdatasync(fd)
    operation = _announce("evict", fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    _made(operation)


# --- names ------------------------------------------------------------------------------------------------------------


def make_directory(path: pathlib.Path, mode: int = 0o700) -> None:
    """Make a folder durably, with its missing parents; one that is there is left as it is."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        operation = _announce("mkdir", folder)
        try:
            os.mkdir(folder, mode)
            _made(operation)
        except FileExistsError:
            if not folder.is_dir():
                raise
        sync_directory(folder.parent)


def make_subdirectory(path: pathlib.Path, mode: int = 0o700) -> None:
    """Make a folder in one that is there, durably; if it is there already, have that durable.

    Raises FileNotFoundError if its parent isn't there.
    """
    operation = _announce("mkdir", path)
    try:
        os.mkdir(path, mode)
        _made(operation)
    except FileExistsError:
        if not path.is_dir():
            raise
    sync_directory(path.parent)


def make_directories(parent: pathlib.Path, names: Iterable[str], mode: int = 0o700) -> None:
    """Make many folders in one, durably, with one sync; those that are there are left as they are."""
    for name in names:
        operation = _announce("mkdir", parent / name)
        with suppress(FileExistsError):
            os.mkdir(parent / name, mode)
            _made(operation)
    sync_directory(parent)


def sync_directory(path: pathlib.Path) -> None:
    """Make the names in a folder durable."""
    operation = _announce("syncdir", path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    _made(operation)


def publish(temporary: pathlib.Path, final: pathlib.Path) -> None:
    """Give a finished, fsynced file its final name, durably, in the place of whatever had it."""
    rename(temporary, final)
    sync_directory(final.parent)


def rename(source: pathlib.Path, target: pathlib.Path) -> None:
    """Give a file another name, in the place of whatever had it. The caller syncs the folders."""
    operation = _announce("rename", target, source=str(source))
    os.rename(source, target)
    _made(operation)


def publish_new(temporary: pathlib.Path, final: pathlib.Path) -> None:
    """Give a finished, fsynced file its final name, durably, unless the name is taken: then FileExistsError.

    A kill in between leaves the temporary name beside the final one.
    """
    operation = _announce("link", final, source=str(temporary))
    os.link(temporary, final, follow_symlinks=False)
    _made(operation)
    unlink(temporary, durable=False)
    sync_directory(final.parent)


def write_file(path: pathlib.Path, data: bytes, mode: int = 0o600) -> None:
    """Publish a small file whole: under its name are the old bytes or the new ones, never less."""
    temporary = path.with_name(f".{path.name}.tmp")
    unlink(temporary, durable=False)
    fd = create(temporary, mode)
    try:
        pwrite(fd, data, 0)
        fsync(fd)
    finally:
        os.close(fd)
    publish(temporary, path)


def unlink(path: pathlib.Path, *, durable: bool = True) -> bool:
    """Remove a file; True if it was there. Not durable means that the caller syncs the folder, or needn't."""
    operation = _announce("unlink", path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    _made(operation)
    if durable:
        sync_directory(path.parent)
    return True


def remove_directory(path: pathlib.Path) -> bool:
    """Remove a folder if it is empty; True if it is gone."""
    operation = _announce("rmdir", path)
    try:
        os.rmdir(path)
        _made(operation)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def set_group(path: pathlib.Path, gid: int) -> None:
    """Change the group that owns a file, following no link."""
    _announce("chown", path)
    os.chown(path, -1, gid, follow_symlinks=False)


def set_mode(path: pathlib.Path, mode: int, *, durable: bool = False) -> None:
    """Change a file's permissions. Unless it is to be durable, a power cut may give the old ones back."""
    operation = _announce("chmod", path, length=mode)
    os.chmod(path, mode)
    _made(operation)
    if durable:
        # Also if they were so before: who changed them may have died before they were safe.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fsync(fd)
        finally:
            os.close(fd)


def set_owner(path: pathlib.Path, uid: int, gid: int) -> None:
    """Change who owns a file, following no link; -1 leaves the user or the group as it is."""
    operation = _announce("chown", path)
    os.chown(path, uid, gid, follow_symlinks=False)
    _made(operation)


def set_attribute(path: pathlib.Path, name: str, value: bytes) -> None:
    """Set an extended attribute of a file, following no link."""
    operation = _announce("setxattr", path, length=len(value))
    os.setxattr(path, name, value, follow_symlinks=False)
    _made(operation)
