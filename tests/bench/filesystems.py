"""A file system of its own in a file, for what the disk at hand can't do; it is gone with the process that made it."""

import ctypes
import os
import pathlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNS = 0x00020000


@contextmanager
def reflinking(folder: pathlib.Path, size_bytes: int) -> Iterator[pathlib.Path | None]:
    """Give a new XFS that shares blocks between files, mounted beneath folder; None without root or xfsprogs.

    It is mounted where only this process and its children see it, so that even a kill leaves no mount behind.
    """
    if os.geteuid() != 0 or not _make(folder / "xfs.img", size_bytes):
        yield None
        return
    place = folder / "xfs"
    place.mkdir()
    _stay_private()
    # Direct I/O, so that the file system's pages aren't cached a second time beneath it.
    loop = ("losetup", "--find", "--show", "--direct-io=on", folder / "xfs.img")
    device = subprocess.run(loop, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["mount", device, place], check=True)
    finally:
        # From here on the device lives as long as the mount.
        subprocess.run(["losetup", "--detach", device], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        (folder / "xfs.img").unlink()


def _make(path: pathlib.Path, size_bytes: int) -> bool:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    try:
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", path], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return False
    return True


def _stay_private() -> None:
    """Give this process a view of mounts of its own, out of which nothing spreads."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
