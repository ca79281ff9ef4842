"""Disks with real files on them, which compress and repeat as people's data do; and the page cache beneath them."""

import dataclasses
import errno
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

from snapd import units

DATA_BYTES = 3_900_000_000
DISK_BYTES = 6 * units.GIB
_QUICK = 32
"""How many times smaller the disk is when it is only to be seen that a benchmark works."""

_ROOTS = ("/usr", "/opt", "/var/lib")
"""Where files are taken from, in this order: programs, libraries, documents, sources, databases of packages."""


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What is on a disk."""

    files: int
    bytes: int
    """Of these files."""
    roots: tuple[str, ...]
    """Folders of the host that they came from."""

    def __str__(self) -> str:
        """Return it as one says it."""
        return f"{units.format_size(self.bytes)} in {self.files:,} files of {', '.join(self.roots)}"


def write_files(path: pathlib.Path, data_bytes: int, size_bytes: int) -> int:
    """Fill the start of a raw disk with the host's own files, end to end, and return how many bytes that are.

    At most data_bytes; the files come again and again if there are too few.
    """
    written = 0
    with path.open("wb") as disk:
        while written < data_bytes:
            before = written
            for folder, folders, names in os.walk("/usr"):
                folders.sort()
                for name in sorted(names):
                    file = pathlib.Path(folder, name)
                    if written < data_bytes and not file.is_symlink() and file.is_file():
                        written += disk.write(file.read_bytes()[: data_bytes - written])
            assert written > before, "there are no files to fill a disk with"
        disk.truncate(size_bytes)
    return written


def make(path: pathlib.Path, *, quick: bool) -> None:
    """Make the raw disk with which the benchmarks of the archive begin, and print what is on it."""
    scale = _QUICK if quick else 1
    contents = write_filesystem(path, DATA_BYTES // scale, DISK_BYTES // scale)
    print(f"  an ext4 of {units.format_size(DISK_BYTES // scale)} with {contents}", flush=True)


def write_filesystem(path: pathlib.Path, data_bytes: int, size_bytes: int) -> Contents:
    """Make a raw disk with an ext4 that holds some of the host's files, each once, and say what is on it.

    They come in the order of their paths until there are data_bytes, or no more: nothing is put on it twice, so what
    repeats repeats on the host.
    """
    tree = path.with_name(f"{path.name}.files")
    files = taken = 0
    roots: list[str] = []
    for root, source, length in _host_files():
        if taken + length > data_bytes:
            continue
        target = tree / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        files, taken = files + 1, taken + length
        if root not in roots:
            roots.append(root)
        if taken > data_bytes - units.MIB:
            break
    made = f"{size_bytes // units.KIB}k"
    try:
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", "-L", "bench", "-d", tree, path, made], check=True, stdout=subprocess.DEVNULL
        )
    finally:
        shutil.rmtree(tree)
    forget(path)
    return Contents(files, taken, tuple(roots))


def _host_files() -> Iterator[tuple[str, pathlib.Path, int]]:
    """Yield root, path and length of the host's files, each inode once, in an order that doesn't change."""
    seen: set[tuple[int, int]] = set()
    for root in _ROOTS:
        device = os.stat(root).st_dev
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if _is_on(pathlib.Path(folder, name), device))
            for name in sorted(names):
                path = pathlib.Path(folder, name)
                if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                    continue
                found = path.stat()
                if found.st_size and (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    yield root, path, found.st_size


def _is_on(folder: pathlib.Path, device: int) -> bool:
    try:
        return folder.lstat().st_dev == device
    except FileNotFoundError:
        return False


def forget(*paths: pathlib.Path) -> None:
    """Have files leave the page cache, once they are on the disk. A folder stands for all files in it.

    A daemon that tidies up may remove some of them meanwhile.
    """
    for path in paths:
        for file in sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]:
            try:
                fd = os.open(file, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def data_blocks(path: pathlib.Path, block: int) -> list[int]:
    """Return the numbers of the blocks of a raw disk that aren't wholly in holes of the file, ascending."""
    numbers: list[int] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        end = os.fstat(fd).st_size
        position = 0
        while position < end:
            try:
                position = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            hole = os.lseek(fd, position, os.SEEK_HOLE)
            first = position // block
            numbers.extend(range(max(first, numbers[-1] + 1) if numbers else first, units.divide_up(hole, block)))
            position = hole
    finally:
        os.close(fd)
    return numbers
