"""Claiming the path of a unix socket, so that no server ever takes a socket away from another.

gRPC removes whatever socket it finds at a path before it binds, and reports nothing. So a path is claimed first: under
a lock beside it, after a look whether somebody answers there.
"""

import errno
import grp
import os
import pathlib
import re
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from snapd import errors, fsops, lockfile

LONGEST_PATH = 107
"""Bytes of a socket's path: sun_path of unix(7), less the closing zero."""

_FOLDER_MODE = 0o750
_SPECIAL_IN_ADDRESS = re.compile(r"[%?#\x00-\x1f]")
_PROBE_TIMEOUT_S = 2.0


class Claim:
    """The right to bind a path, until it is closed."""

    def __init__(self, path: pathlib.Path, lock: lockfile.LockFile, group_id: int, mode: int) -> None:
        self.path = path
        self._lock = lock
        self._group_id = group_id
        self._mode = mode

    @property
    def address(self) -> str:
        """The path as gRPC takes it."""
        return f"unix:{self.path}"

    def bind(self, bind: Callable[[str], object]) -> None:
        """Have the path bound by calling bind with its address, and see to the socket's mode and group.

        The umask belongs to the whole process: bind before there are threads that create files.
        """
        with _umask(0o777 & ~self._mode):
            bind(self.address)
        if self._group_id != -1:
            with fsops.translated(self.path):
                fsops.set_group(self.path, self._group_id)

    def close(self) -> None:
        """Give the path up. The server that was bound to it has stopped."""
        self._lock.close()


def claim(path: pathlib.Path, group: str = "", mode: int = 0o660) -> Claim:
    """Claim a socket's path; its folder is made if it is missing, and a socket that nobody serves is removed.

    Raises SocketPathUnusable, SocketBusy, StorageFailed.
    """
    _check(path)
    group_id = _group_id(path, group)
    with fsops.translated(path.parent):
        if not path.parent.is_dir():
            fsops.make_directory(path.parent)
            fsops.set_group(path.parent, group_id)
            fsops.set_mode(path.parent, _FOLDER_MODE)
        lock = lockfile.acquire(path.with_name(f"{path.name}.lock"))
    if lock is None:
        raise errors.SocketBusy(path=str(path))
    try:
        with fsops.translated(path):
            if _is_there(path):
                if _somebody_answers(path):
                    raise errors.SocketBusy(path=str(path))
                fsops.unlink(path, durable=False)
    except errors.SnapdError:
        lock.close()
        raise
    return Claim(path, lock, group_id, mode)


def _check(path: pathlib.Path) -> None:
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        problem = f"the path of a socket may have {LONGEST_PATH} bytes, this one has {length}"
        raise errors.SocketPathUnusable(path=str(path), problem=problem)
    if not path.is_absolute() or _SPECIAL_IN_ADDRESS.search(str(path)):
        problem = "the path of a socket must be absolute and free of %, ?, # and control characters"
        raise errors.SocketPathUnusable(path=str(path), problem=problem)


def _group_id(path: pathlib.Path, group: str) -> int:
    if not group:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise errors.SocketPathUnusable(path=str(path), problem=f"there is no group {group}") from error


def _is_there(path: pathlib.Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise errors.SocketPathUnusable(path=str(path), problem="something that is no socket has this name")
    return True


def _somebody_answers(path: pathlib.Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        code = probe.connect_ex(str(path))
    # Anything but a refusal, a full queue for one, means that somebody has it open.
    return code not in (errno.ECONNREFUSED, errno.ENOENT)


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
