"""Storage daemons that a test's daemon started: they outlive it, so whoever made their folder ends them."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from snapd.live import launcher
from snapd.live import process as processes
from snapd.qcow2.format import locks

_END_S = 10.0


def found(exports: pathlib.Path) -> list[processes.Process]:
    """Return the storage daemons that run whose folders lie, or lay, in a folder of exports.

    Each has the path of its log open, and the name of its folder in its command line.
    """
    running = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if not (entry / "fd" / "2").readlink().is_relative_to(exports):
                continue
            process = processes.of_pid(int(entry.name))
            if process is not None:
                running.append(process)
    return running


def end(exports: pathlib.Path) -> int:
    """Kill the storage daemons of a folder of exports, and return how many they were."""
    ended = found(exports)
    for process in ended:
        process.kill()
        assert process.wait(_END_S)
        process.close()
    return len(ended)


@contextlib.contextmanager
def folder() -> Iterator[pathlib.Path]:
    """Make a folder of exports whose path leaves room for sockets; what serves from it ends with the block."""
    if shutil.which(launcher.PROGRAM) is None:
        pytest.skip(f"{launcher.PROGRAM} isn't installed")
    with tempfile.TemporaryDirectory(prefix="snapd-") as made:
        path = pathlib.Path(made)
        path.chmod(0o711)
        try:
            yield path
        finally:
            end(path)


@contextlib.contextmanager
def holding(image: pathlib.Path) -> Iterator[None]:
    """Have an image open as a virtual machine would, for the length of a block."""
    fd = os.open(image, os.O_RDWR)
    try:
        locks.exclusive(fd, image.name)
        yield
    finally:
        os.close(fd)
