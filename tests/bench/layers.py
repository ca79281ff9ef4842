"""Two layers of a disk whose bytes are known, and the undoing of what a fold did to them."""

import dataclasses
import os
import pathlib
import subprocess

import numpy as np

from snapd import units
from snapd.blockmap import Int64Array
from tests.bench import images

_STEP = 64 * units.MIB


@dataclasses.dataclass(frozen=True, slots=True)
class _Layer:
    path: pathlib.Path
    metadata: bytes
    """All that precedes its data."""
    file_size: int


class Pair:
    """A lower and a top image that together hold every cluster of a disk, turn about in fragments of one size."""

    def __init__(self, place: pathlib.Path, size_bytes: int, fragment: int) -> None:
        """Make them. The disk is as `write_disk` has it."""
        numbers = np.arange(size_bytes // images.CLUSTER, dtype=np.int64)
        on_top = numbers // (fragment // images.CLUSTER) % 2 == 0
        self.lower, self.top = place / "lower.qcow2", place / "top.qcow2"
        self._layers = (
            _make(self.lower, size_bytes, ~on_top, None),
            _make(self.top, size_bytes, on_top, "lower.qcow2"),
        )

    def warm(self) -> None:
        """Have what the files hold in the page cache."""
        buffer = bytearray(units.MIB)
        for layer in self._layers:
            with layer.path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    def undo(self) -> None:
        """Bring the files back to what they were made as, and wait until that is on the disk.

        What a fold adds lies behind what was there, since the images have no free clusters.
        """
        for layer in self._layers:
            with layer.path.open("r+b") as file:
                file.write(layer.metadata)
                file.truncate(layer.file_size)
                os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the files."""
        for layer in self._layers:
            layer.path.unlink()


def write_disk(path: pathlib.Path, size_bytes: int) -> None:
    """Write the disk that a pair holds as a raw file."""
    with path.open("wb", buffering=0) as file:
        for first in range(0, size_bytes // images.CLUSTER, _STEP // images.CLUSTER):
            last = min(first + _STEP // images.CLUSTER, size_bytes // images.CLUSTER)
            file.write(_content(np.arange(first, last, dtype=np.int64)).data)
    _forget(path)


def require_disk(image: pathlib.Path, expected: pathlib.Path) -> None:
    """Require that QEMU finds an image, with what lies below it, sound and equal to a raw disk."""
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", image], check=True)
    subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", image, expected], check=True)
    _forget(expected)


def _forget(path: pathlib.Path) -> None:
    """Have a file leave the page cache, which the layers need."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _make(
    path: pathlib.Path, size_bytes: int, held: np.ndarray[tuple[int], np.dtype[np.bool_]], below: str | None
) -> _Layer:
    numbers = np.flatnonzero(held)
    hosts = np.full(len(held), -1, np.int64)
    hosts[numbers] = np.arange(len(numbers))
    with path.open("x+b", buffering=0) as file:
        first_data = images.write_metadata(file.fileno(), size_bytes, hosts, backing_name=below)
        file.seek(first_data)
        for at in range(0, len(numbers), _STEP // images.CLUSTER):
            file.write(_content(numbers[at : at + _STEP // images.CLUSTER]).data)
        os.fsync(file.fileno())
        return _Layer(path, os.pread(file.fileno(), first_data, 0), os.fstat(file.fileno()).st_size)


def _content(numbers: Int64Array) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the bytes of clusters of the disk: no two are alike, and none can be compressed."""
    noise = np.random.default_rng(1).integers(1 << 62, size=images.CLUSTER // 8, dtype=np.int64)
    return noise ^ (numbers[:, None] * 0x9E3779B97F4A7C1)
