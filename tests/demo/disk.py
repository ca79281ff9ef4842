"""The demo's disk: a file system full of this host's own files, and what a guest does to it.

It owns the image before it is imported and copies that were exported. It must not know of the daemon.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

from snapd import units
from tests.demo import narrator

_SIZE_BYTES = 1280 * units.MIB
_FILES_BYTES = 512 * units.MIB
"""How much of the host's files go in, at most."""
_SMALLEST_FILE_BYTES = 64 * units.KIB
"""Many small files make the making of the image slow, and show nothing more."""
_ROOTS = ("/usr/lib", "/usr/share", sys.prefix)
_CHANGE_BYTES = 96 * units.MIB
"""What a guest writes anew. Archiving it takes long enough to be looked at."""
_MARK = b"snapd demo: "
"""What a note begins with where there is no file system to hold it."""
_QCOW2_MAGIC = b"QFI\xfb"


class Disk:
    """A disk image, and the ways in which its contents change and are looked at."""

    def __init__(self, image: pathlib.Path, image_format: str) -> None:
        self.image = image
        self.format = image_format
        """'raw' or 'qcow2'."""

    def change(self, contents: pathlib.Path, note: str) -> None:
        """Do to a raw copy of the disk what a guest would, and leave a note. Raises Failed if the disk is too small."""
        size_bytes = contents.stat().st_size
        if size_bytes < 2 * _CHANGE_BYTES:
            raise narrator.Failed(f"the disk is too small for the demo: {units.format_size(size_bytes)}")
        with contents.open("r+b") as file:
            file.seek(size_bytes // 2 // units.MIB * units.MIB)
            file.write(_MARK + note.encode().ljust(units.KIB, b"\0"))
            for _ in range(_CHANGE_BYTES // units.MIB - 1):
                file.write(os.urandom(units.MIB))

    def describe(self, contents: pathlib.Path) -> str:
        """Return the note on a raw copy of the disk. Raises Failed if what is on it is broken."""
        with contents.open("rb") as file:
            file.seek(contents.stat().st_size // 2 // units.MIB * units.MIB)
            found = file.read(len(_MARK) + units.KIB)
        return found.removeprefix(_MARK).rstrip(b"\0").decode() if found.startswith(_MARK) else "as it came"


class FileSystem(Disk):
    """The disk that the demo makes: ext4, with a file that holds the note. A referee looks at it: e2fsck."""

    def change(self, contents: pathlib.Path, note: str) -> None:
        work = contents.parent
        state, data = work / "state.txt", work / "release.bin"
        state.write_text(note)
        data.write_bytes(os.urandom(_CHANGE_BYTES))
        script = work / "changes"
        script.write_text(f"rm state.txt\nwrite {state} state.txt\nrm release.bin\nwrite {data} release.bin\n")
        _run("debugfs", "-w", "-f", str(script), str(contents))

    def describe(self, contents: pathlib.Path) -> str:
        _run("e2fsck", "-f", "-n", str(contents))
        return _run("debugfs", "-R", "cat state.txt", str(contents)).strip()


def given(path: pathlib.Path) -> Disk:
    """Return a disk of the user's own; it is only read. Raises Failed if it can't be read."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_QCOW2_MAGIC))
    except OSError as error:
        raise narrator.Failed(f"{path}: {error.strerror}") from error
    return Disk(path, "qcow2" if magic == _QCOW2_MAGIC else "raw")


def make(folder: pathlib.Path, note: str) -> Disk:
    """Make a disk with files of this host in a folder. Raises Failed if the tools are missing."""
    tree = folder / "files"
    taken = 0
    for number, source in enumerate(_files()):
        target = tree / f"{number // 100:03}" / f"{number:05}-{source.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        taken += target.stat().st_size
        if taken >= _FILES_BYTES:
            break
    (tree / "state.txt").write_text(note)
    image = folder / "disk.raw"
    _run("mkfs.ext4", "-q", "-F", "-L", "demo", "-d", str(tree), str(image), f"{_SIZE_BYTES // units.KIB}k")
    shutil.rmtree(tree)
    return FileSystem(image, "raw")


def digest(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def referee(*words: str) -> bool:
    """Run qemu-img and return whether it is there at all. Raises Failed if it finds fault."""
    if shutil.which("qemu-img") is None:
        return False
    _run("qemu-img", *words)
    return True


def _files() -> Iterator[pathlib.Path]:
    """Yield files of the host that are worth taking, in an order that doesn't change."""
    for root in _ROOTS:
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = pathlib.Path(folder, name)
                if not path.is_file() or path.is_symlink() or not os.access(path, os.R_OK):
                    continue
                if path.stat().st_size >= _SMALLEST_FILE_BYTES:
                    yield path


def _run(*words: str) -> str:
    """Run a tool and return what it writes. Raises Failed."""
    try:
        ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise narrator.Failed(f"{words[0]} is needed: run `make setup`, which says how to install it") from error
    if ended.returncode != 0:
        raise narrator.Failed(f"'{' '.join(words)}' ended with {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.stdout
