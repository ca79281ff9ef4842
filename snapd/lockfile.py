"""Files whose lock says that a daemon owns what lies beside them.

The lock (flock) dies with its holder, so a crash leaves nothing to clean up. The file itself is never removed: removing
it would let two processes hold a lock on two files of the same name.
"""

import fcntl
import os
import pathlib

from snapd import errors, fsops


class LockFile:
    """An exclusive lock on a file, held until it is closed. In the file stands its owner's process id, for people."""

    def __init__(self, path: pathlib.Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._fd)


def acquire(path: pathlib.Path) -> LockFile | None:
    """Take the lock of a file, which is created if it isn't there; None if another process has it."""
    try:
        fd = fsops.create(path)
    except FileExistsError:
        fd = fsops.open_for_writing(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fsops.truncate(fd, 0)
        fsops.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return LockFile(path, fd)


def acquire_state(folder: pathlib.Path) -> LockFile:
    """Take a state folder, which is made if it isn't there. Raises errors.StateDirectoryBusy, errors.StorageFailed."""
    path = folder / "lock"
    with fsops.translated(folder):
        fsops.make_directory(folder)
        lock = acquire(path)
    if lock is None:
        raise errors.StateDirectoryBusy(path=str(folder), pid=holder(path))
    return lock


def holder(path: pathlib.Path) -> str:
    """Return the process id that a lock file names, or 'unknown' where its owner hasn't written it yet."""
    return path.read_text(errors="replace").strip() or "unknown"
