"""What a disk holds after a power cut: a model of a file system that keeps only what was synced.

A witness of `fsops` tells it every change that was made. Bytes are safe once their file was synced, and so is its mode,
names once their folder was. `cut` then lays down, in place of the folder, one of the states that the power's end may
leave:

- changes of a file's bytes that were not synced are dropped, kept up to some moment, or kept at random and torn at
  sectors; a write of which nothing is kept may still have lengthened the file (zeros: what XFS shows);
- changes of a file's mode that were not synced are kept up to some moment;
- changes of names that were not synced are kept up to some moment (as journals do), or each at random.

Databases are not in it: SQLite syncs them itself (`synchronous=FULL`), so what is committed is there, see `cut`.
"""

import dataclasses
import os
import pathlib
import random
import shutil
from typing import Final

from snapd import fsops

_SECTORS: Final = (512, 4096)
_DATABASES: Final = (".sqlite3", ".sqlite3-wal", ".sqlite3-shm")


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """A change of a file: bytes at an offset, or without bytes a new length."""

    offset: int
    data: bytes | None


@dataclasses.dataclass(eq=False, slots=True)
class _File:
    """A file, whatever names it has."""

    durable: bytearray = dataclasses.field(default_factory=bytearray)
    pending: list[_Change] = dataclasses.field(default_factory=list)
    modes: list[int] = dataclasses.field(default_factory=lambda: [0o600])
    """The one that is safe, and behind it those that it was given since."""
    lost: bool = False
    """A sync failed: what is shown may not be on the disk."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Naming:
    """A change of names: what each of some paths means from then on, None for nothing."""

    meanings: tuple[tuple[str, "_File | str | None"], ...]
    """'folder' stands for a folder."""
    folder: str


_FOLDER: Final = "folder"


class Disk:
    """The model of one folder. It is a witness of fsops."""

    def __init__(self, root: pathlib.Path) -> None:
        """Model a folder whose present state is safe."""
        self._root = root
        self._files: dict[tuple[int, int], _File] = {}
        self._now: dict[str, _File | str] = {}
        self._durable: dict[str, _File | str] = {}
        self._pending: list[_Naming] = []
        self.adopt()

    def adopt(self) -> None:
        """Take what the folder holds as safe."""
        self._files.clear()
        self._pending.clear()
        self._now.clear()
        for folder, folders, names in os.walk(self._root):
            for name in folders:
                self._now[os.path.join(folder, name)] = _FOLDER
            for name in names:
                path = os.path.join(folder, name)
                if not path.endswith(_DATABASES):
                    status = os.stat(path)
                    file = _File(bytearray(pathlib.Path(path).read_bytes()), [], [status.st_mode & 0o777])
                    self._files[status.st_dev, status.st_ino] = file
                    self._now[path] = file
        self._durable = dict(self._now)

    def __call__(self, operation: fsops.Operation) -> None:
        """Witness a change."""
        name, target = operation.name, operation.target
        if target.isdigit():
            self._change(operation, int(target))
        elif not target.startswith(str(self._root)):
            return
        elif name == "syncdir":
            self._sync_names(target)
        elif name == "create":
            status = os.stat(target, follow_symlinks=False)
            file = self._files[status.st_dev, status.st_ino] = _File(modes=[status.st_mode & 0o777])
            self._rename((target, file))
        elif name == "mkdir":
            self._rename((target, _FOLDER))
        elif name in ("unlink", "rmdir"):
            self._rename((target, None))
        elif name == "rename":
            self._rename((target, self._now[operation.source]), (operation.source, None))
        elif name == "link":
            self._rename((target, self._now[operation.source]))
        elif name == "chmod":
            found = self._now[target]
            assert isinstance(found, _File)
            found.modes.append(operation.length)

    def _change(self, operation: fsops.Operation, fd: int) -> None:
        status = os.fstat(fd)
        file = self._files.get((status.st_dev, status.st_ino))
        if file is None:
            return
        match operation.name:
            case "fsync" | "fdatasync":
                for change in file.pending:
                    _apply(file.durable, change)
                file.pending.clear()
                if operation.name == "fsync":
                    # fdatasync keeps what is needed to read the bytes, and nothing else.
                    del file.modes[:-1]
            case "evict":
                self._show(fd, file)
            case "truncate":
                file.pending.append(_Change(operation.offset, None))
            case "punch":
                length = min(operation.length, max(0, status.st_size - operation.offset))
                file.pending.append(_Change(operation.offset, bytes(length)))
            case "pwrite" | "copy" | "clone":
                file.pending.append(_Change(operation.offset, os.pread(fd, operation.length, operation.offset)))

    def _rename(self, *meanings: tuple[str, _File | str | None]) -> None:
        self._pending.append(_Naming(meanings, os.path.dirname(meanings[0][0])))
        _name(self._now, meanings)

    def _sync_names(self, folder: str) -> None:
        for naming in self._pending:
            if naming.folder == folder:
                _name(self._durable, naming.meanings)
        self._pending = [naming for naming in self._pending if naming.folder != folder]

    def lose(self, fd: int, choice: random.Random) -> None:
        """A sync of a file failed: what was not safe is on the disk or not, and no later sync puts that right.

        As on Linux the pages count as clean from then on: who reads gets them until they are evicted, and then what is
        on the disk.
        """
        status = os.fstat(fd)
        file = self._files.get((status.st_dev, status.st_ino))
        if file is None:
            return
        file.durable = _survivor(file, choice)
        file.pending.clear()
        file.lost = True
        if choice.random() < 0.5:
            self._show(fd, file)

    def _show(self, fd: int, file: _File) -> None:
        """Have a file hold what is on the disk; its length is known to the system whatever becomes of the pages."""
        if file.lost:
            size = os.fstat(fd).st_size
            shown = file.durable[:size]
            os.pwrite(fd, shown + bytes(size - len(shown)), 0)
            file.lost = False

    # --- the cut ------------------------------------------------------------------------------------------------------

    def cut(self, choice: random.Random | None) -> None:
        """Have the folder be as a power cut leaves it now; without choice as bad as it can be.

        Nobody may have anything open in it.

        Databases stay as they are: what isn't committed in them doesn't count, and what is committed was synced.
        """
        names = dict(self._durable) if choice is None else self._surviving_names(choice)
        contents: dict[int, bytes] = {}
        for meaning in names.values():
            if isinstance(meaning, _File) and id(meaning) not in contents:
                contents[id(meaning)] = bytes(meaning.durable if choice is None else _survivor(meaning, choice))
                meaning.modes = [meaning.modes[0] if choice is None else choice.choice(meaning.modes)]
        self._lay_down(names, contents)
        self.adopt()

    def _surviving_names(self, choice: random.Random) -> dict[str, _File | str]:
        names = dict(self._durable)
        if choice.random() < 0.5:
            for naming in self._pending[: choice.randint(0, len(self._pending))]:
                _name(names, naming.meanings)
        else:
            chance = choice.choice((0.0, 0.5, 0.9))
            for naming in self._pending:
                if choice.random() < chance:
                    _name(names, naming.meanings)
        return names

    def _lay_down(self, names: dict[str, _File | str], contents: dict[int, bytes]) -> None:
        for entry in sorted(os.listdir(self._root)):
            old = self._root / entry
            if old.is_dir():
                shutil.rmtree(old)
            elif not entry.endswith(_DATABASES):
                old.unlink()
        for path, meaning in sorted(names.items()):
            if meaning is _FOLDER and os.path.isdir(os.path.dirname(path)):
                os.mkdir(path, 0o700)
        laid: dict[int, str] = {}
        for path, meaning in sorted(names.items()):
            if not isinstance(meaning, _File) or not os.path.isdir(os.path.dirname(path)):
                continue
            if id(meaning) in laid:
                os.link(laid[id(meaning)], path)
                continue
            laid[id(meaning)] = path
            _write_sparsely(path, contents[id(meaning)])
            os.chmod(path, meaning.modes[0])


def _name(names: dict[str, _File | str], meanings: tuple[tuple[str, _File | str | None], ...]) -> None:
    for path, meaning in meanings:
        if meaning is None:
            names.pop(path, None)
        else:
            names[path] = meaning


def _apply(data: bytearray, change: _Change) -> None:
    end = change.offset + len(change.data or b"")
    if change.data is None:
        del data[change.offset :]
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    if change.data is not None:
        data[change.offset : end] = change.data


def _survivor(file: _File, choice: random.Random) -> bytearray:
    """Return what may be left of a file."""
    data = bytearray(file.durable)
    way = choice.choice(("none", "all", "until", "some", "torn"))
    if way == "none":
        return data
    until = choice.randint(0, len(file.pending)) if way == "until" else len(file.pending)
    for change in file.pending[:until]:
        if way in ("all", "until"):
            _apply(data, change)
        elif change.data is None:
            if choice.random() < 0.5:
                _apply(data, change)
        elif way == "some" and choice.random() < 0.5:
            _apply(data, change)
        elif way == "torn":
            _tear(data, change.offset, change.data, choice)
    return data


def _tear(data: bytearray, offset: int, new: bytes, choice: random.Random) -> None:
    """Write some sectors of a change; the file may have been lengthened for the others all the same."""
    sector = choice.choice(_SECTORS)
    if choice.random() < 0.5 and len(data) < offset + len(new):
        data.extend(bytes(offset + len(new) - len(data)))
    position = 0
    while position < len(new):
        end = min(len(new), (offset + position) // sector * sector + sector - offset)
        if choice.random() < 0.5:
            _apply(data, _Change(offset + position, new[position:end]))
        position = end


def _write_sparsely(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        for start in range(0, len(data), 4096):
            part = data[start : start + 4096]
            if part.count(0) != len(part):
                file.seek(start)
                file.write(part)
        file.truncate(len(data))
