"""Byte locks on image files, where QEMU sets and looks for them: two programs can't write one image by mistake.

Owns which bytes mean what. An opener has one byte for each thing that it does, and another for each thing that nobody
else may do meanwhile; all are read locks, so that they never stand in each other's way by themselves. Having set its
own, it looks whether anybody holds a byte of the opposite meaning. (QEMU's block/file-posix.c does the same, as its
permissions `consistent read`, `write` and `resize`.)

The locks belong to the open file description (F_OFD_SETLK): closing another descriptor of the file leaves them alone,
a child process shares them, and two openers within this process meet them like strangers. They are advice: only who
asks is refused. Knows nothing of what an image holds.
"""

import enum
import fcntl
import os
import struct
from contextlib import suppress

from snapd import errors

_FLOCK = struct.Struct("@hhqqi4x")
"""struct flock of a 64-bit Linux: type, whence, start, length, pid."""

_DOES = 100
_FORBIDS = 200


class _Access(enum.IntEnum):
    """What an opener may do, as the number of a byte behind each of the two bases."""

    CONSISTENT_READ = 0
    WRITE = 1
    RESIZE = 3


_CHANGES = (_Access.WRITE, _Access.RESIZE)
"""What no opener lets others do, whether it reads or writes: tables that it has read must stay as they are."""


def shared(fd: int, name: str) -> None:
    """Lock an open image for reading, with others that read. The locks go with `release` or the last close.

    Raises errors.ImageBusy if somebody writes it or keeps others from reading it; OSError if the file system can't.
    """
    _hold(fd, name, (_Access.CONSISTENT_READ,))


def exclusive(fd: int, name: str) -> None:
    """Lock an open image for writing. The locks go with `release` or the last close.

    Raises errors.ImageBusy if somebody has it open who asked for the locks; OSError if the file system can't.
    """
    _hold(fd, name, (_Access.CONSISTENT_READ, *_CHANGES))


def release(fd: int) -> None:
    """Drop the locks, also if a child process that is being started still has the descriptor, or a duplicate has."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, _DOES, _FORBIDS + max(_Access) + 1 - _DOES))


def close(fd: int) -> None:
    """Drop the locks, and close the descriptor, wherever else it may still be open."""
    # A file system without locks has none to be dropped, and nobody was told that there are any.
    with suppress(OSError):
        release(fd)
    os.close(fd)


def _hold(fd: int, name: str, accesses: tuple[_Access, ...]) -> None:
    # Everybody sets first and looks afterwards, so that of two who come at once at least one sees the other.
    for access in accesses:
        _set(fd, name, _DOES + access)
    for change in _CHANGES:
        _set(fd, name, _FORBIDS + change)
    for change in _CHANGES:
        if _is_held(fd, _DOES + change):
            raise errors.ImageBusy(name=name, use="somebody else writes it")
    for access in accesses:
        if _is_held(fd, _FORBIDS + access):
            what = "changed" if access in _CHANGES else "read"
            raise errors.ImageBusy(name=name, use=f"somebody else has it open and doesn't want it {what}")


def _set(fd: int, name: str, byte: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK, byte, 1))
    except BlockingIOError as error:
        # A write lock on one of these bytes isn't QEMU's way; whose ever it is, it means to keep others out.
        raise errors.ImageBusy(name=name, use="somebody else has locked it") from error


def _is_held(fd: int, byte: int) -> bool:
    """Say whether another open file description has any lock on a byte."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte, 1))
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def _flock(kind: int, start: int, length: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
