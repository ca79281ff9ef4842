"""File systems of their own in files: for what the disk at hand can't do, and to cut the power of.

They are mounted where only this process and its children see them, so that even a kill leaves no mount behind.
"""

import ctypes
import fcntl
import os
import pathlib
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

_CLONE_NEWNS: Final = 0x00020000
_SHUTDOWN: Final = 0x8004587D
"""EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one: nothing reaches the device any more."""
_NO_LOG_FLUSH: Final = struct.pack("I", 2)

_MAKE: Final[Mapping[str, Sequence[str]]] = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
# What is written only now and then isn't written while a copy of the device is made.
_OPTIONS: Final[Mapping[str, str]] = {"btrfs": "commit=300"}


class FileSystem:
    """A new file system in a file."""

    def __init__(self, folder: pathlib.Path, kind: str, size_bytes: int) -> None:
        """Make and mount one beneath a folder. Raises subprocess.CalledProcessError, FileNotFoundError, OSError."""
        self.kind = kind
        self.place = folder / kind
        self._image = folder / f"{kind}.img"
        self._lost: pathlib.Path | None = None
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run([*_MAKE[kind], self._image], check=True, capture_output=True)
        self.place.mkdir()
        _stay_private()
        self._mount()

    def lose_power(self) -> None:
        """Have nothing reach the device any more. Whoever uses the file system has to be killed then.

        If it can't be shut down, the device is as it is now; nobody may be writing at this moment.
        """
        if self.kind in ("ext4", "xfs"):
            fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.ioctl(fd, _SHUTDOWN, _NO_LOG_FLUSH)
            finally:
                os.close(fd)
            self._lost = self._image
        else:
            self._lost = self._image.with_suffix(".cut")
            subprocess.run(["cp", "--sparse=always", self._image, self._lost], check=True)

    def power_up(self) -> None:
        """Mount what the device held when the power was lost, if it was. Nobody may use the file system."""
        if self._lost is None:
            return
        self._unmount()
        self._lost.replace(self._image)
        self._lost = None
        self._mount()

    def close(self) -> None:
        """Unmount and remove it."""
        self._unmount()
        self._image.unlink()

    def _mount(self) -> None:
        # Direct I/O, so that the file system's pages aren't cached a second time beneath it.
        loop = ("losetup", "--find", "--show", "--direct-io=on", self._image)
        device = subprocess.run(loop, check=True, capture_output=True, text=True).stdout.strip()
        try:
            options = ("-o", _OPTIONS[self.kind]) if self.kind in _OPTIONS else ()
            subprocess.run(["mount", "-t", self.kind, *options, device, self.place], check=True, capture_output=True)
        finally:
            # From here on the device lives as long as the mount.
            subprocess.run(["losetup", "--detach", device], check=True)

    def _unmount(self) -> None:
        subprocess.run(["umount", self.place], check=True)


@contextmanager
def reflinking(folder: pathlib.Path, size_bytes: int) -> Iterator[pathlib.Path | None]:
    """Give a new XFS that shares blocks between files, mounted beneath folder; None where that can't be had."""
    made = None
    if os.geteuid() == 0:
        with suppress(FileNotFoundError, subprocess.CalledProcessError):
            made = FileSystem(folder, "xfs", size_bytes)
    if made is None:
        yield None
        return
    try:
        yield made.place
    finally:
        made.close()


def why_not(kind: str) -> str:
    """Return why no file system of a kind can be made here, or '' if one can as far as can be told."""
    if os.geteuid() != 0:
        return "only root mounts file systems"
    if not pathlib.Path("/dev/loop-control").exists():
        return "there are no loop devices"
    if shutil.which(_MAKE[kind][0]) is None:
        return f"{_MAKE[kind][0]} is missing"
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    if not any(line.split()[4] == "/" for line in mounts):
        return "the root isn't mounted by itself, so that mounts can't be kept private"
    known = pathlib.Path("/proc/filesystems").read_text().split()
    return "" if kind in known else f"the kernel has no {kind}"


def _stay_private() -> None:
    """Give this process a view of mounts of its own, out of which nothing spreads."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
