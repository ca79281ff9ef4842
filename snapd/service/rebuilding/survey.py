"""What the pool's files say: every layer's header, its mode, and which of them stand on each other.

Reads one cluster of each file and changes nothing. It keeps the few fields that are compared and a description's text,
so a hundred thousand layers take some hundred megabytes. Headers are believed no further than their form goes.
"""

import dataclasses
import datetime
import pathlib
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from snapd import errors
from snapd.pool import layers as pools
from snapd.qcow2.format import header
from snapd.qcow2.reading import image
from snapd.service import descriptions

UNDESCRIBED: Final = -1
"""The generation of a layer whose header has no description."""

_UID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LAYER: Final = re.compile(rf"({_UID})\.qcow2")
_BACKING: Final = re.compile(rf"\.\./([0-9a-f]{{2}})/({_UID})\.qcow2")
_UPLOADS: Final = "staging"


@dataclasses.dataclass(frozen=True, slots=True)
class LayerFile:
    """A layer's file that lies where it should, by its header and its mode."""

    uid: str
    parent: str | None
    """Uid of the layer that its backing name names."""
    size_bytes: int
    mode: int
    """Its permissions, which say whether it is written, and what a fold is doing to it."""
    modified: datetime.datetime
    generation: int = UNDESCRIBED
    owner: str = ""
    """Uid of the volume whose head it was made to be, or ''."""
    stand: tuple[str, str] | None = None
    """(point, layer that showed it) on which it was put."""
    description: bytes = b""

    def described(self) -> descriptions.Head | None:
        """Return what its header says of it, if it says anything."""
        return descriptions.decode_head(self.description) if self.description else None


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A layer's file that can't be used."""

    uid: str
    problem: str
    generation: int = UNDESCRIBED
    """Of what could be read of it; likewise its owner."""
    owner: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Other:
    """A file in the pool's folder that is no layer."""

    path: str
    """Within the pool."""
    problem: str


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """All files of the pool."""

    layers: Mapping[str, LayerFile]
    """Those that can be used: each with every layer that it stands on."""
    refused: Mapping[str, Refused]
    others: tuple[Other, ...] = ()
    children: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Uids of the usable layers that stand on a layer."""

    @property
    def highest_generation(self) -> int:
        """The highest number of an intent that any header names."""
        found = [file.generation for file in self.layers.values()]
        return max([0, *found, *(file.generation for file in self.refused.values())])


NOTHING: Final = Pool({}, {})
"""A pool that is lost."""


def survey(pool: pools.Pool) -> Pool:
    """Read the header of every layer in a pool. Raises errors.StorageFailed if its folders can't be listed."""
    files: dict[str, LayerFile] = {}
    refused: dict[str, Refused] = {}
    others: list[Other] = []
    for path in sorted(pool.files()):
        name = str(path.relative_to(pool.root))
        uid = _uid_of(path, pool)
        if uid is None:
            others.append(Other(name, _what_else(path, pool)))
            continue
        found = _look(path, uid)
        if isinstance(found, LayerFile):
            files[uid] = found
        else:
            refused[uid] = found
    return sort(files.values(), refused.values(), others)


def sort(files: Iterable[LayerFile], refused: Iterable[Refused], others: Iterable[Other] = ()) -> Pool:
    """Return a pool whose layers were read: those that can be used are told from those whose chain is broken."""
    read = {file.uid: file for file in files}
    useless = {file.uid: file for file in refused}
    problems: dict[str, str] = {}
    for uid in read:
        _follow(uid, read, problems)
    usable = {uid: file for uid, file in read.items() if not problems[uid]}
    for uid, problem in problems.items():
        if problem:
            useless[uid] = Refused(uid, problem, read[uid].generation, read[uid].owner)
    children: dict[str, list[str]] = {}
    for file in usable.values():
        if file.parent is not None:
            children.setdefault(file.parent, []).append(file.uid)
    return Pool(usable, useless, tuple(others), {uid: tuple(sorted(found)) for uid, found in children.items()})


def _follow(uid: str, read: Mapping[str, LayerFile], problems: dict[str, str]) -> None:
    """Find out what is wrong with the chain below a layer, and with every chain that lies within it."""
    path: list[str] = []
    on_path: set[str] = set()
    at: str | None = uid
    problem = ""
    while at is not None and at not in problems:
        if at in on_path:
            problem = "it is part of a loop, or stands on one"
            break
        if at not in read:
            problem = f"it stands on layer {at}, which isn't there or can't be read"
            break
        path.append(at)
        on_path.add(at)
        at = read[at].parent
    else:
        problem = problems.get(at, "") if at is not None else ""
    problems.update(dict.fromkeys(path, problem))


def _uid_of(path: pathlib.Path, pool: pools.Pool) -> str | None:
    """Return the uid of the layer that a file is by its place and name."""
    named = _LAYER.fullmatch(path.name)
    return named[1] if named is not None and path == pool.path(named[1]) else None


def _what_else(path: pathlib.Path, pool: pools.Pool) -> str:
    if path.parent == pool.root / _UPLOADS:
        return "an image whose upload or import had not ended"
    if path.suffix == ".tmp":
        return "a layer that was being made"
    if _LAYER.fullmatch(path.name):
        return "a layer that lies in the wrong place"
    return "nothing tells what it is"


def _look(path: pathlib.Path, uid: str) -> LayerFile | Refused:
    """Return what a file's header and mode say."""
    try:
        status = path.lstat()
        with image.Image.open(path, locked=False) as opened:
            parsed = opened.header
    except errors.SnapdError as error:
        return Refused(uid, str(error))
    except OSError as error:
        return Refused(uid, error.strerror or str(error))
    description = (parsed.extension(header.POINT_EXTENSION) or b"").rstrip()
    try:
        head = descriptions.decode_head(description) if description else None
    except errors.Corrupt:
        # Damaged, or of a release that wrote something else: then it says nothing.
        head = None
    parent = None
    if parsed.backing_name is not None:
        named = _BACKING.fullmatch(parsed.backing_name)
        if named is None or not named[2].startswith(named[1]):
            owner, generation = ("", UNDESCRIBED) if head is None else (head.owner.uid, head.generation)
            return Refused(uid, f"its backing file is {parsed.backing_name!r}, which is no layer", generation, owner)
        parent = named[2]
    file = LayerFile(
        uid=uid,
        parent=parent,
        size_bytes=parsed.size_bytes,
        mode=stat.S_IMODE(status.st_mode),
        modified=datetime.datetime.fromtimestamp(status.st_mtime_ns // 1_000 / 1e6, datetime.UTC),
    )
    return file if head is None else with_description(file, head, description)


def with_description(file: LayerFile, head: descriptions.Head, description: bytes) -> LayerFile:
    """Return a file with what its header says: a text, and what that is read as."""
    return dataclasses.replace(
        file,
        generation=head.generation,
        owner=head.owner.uid,
        stand=None if head.stand is None else (head.stand.point, head.stand.layer),
        description=description,
    )


def chain(pool: Pool, uid: str) -> Iterator[str]:
    """Yield a usable layer and all that it stands on, from the top downwards."""
    at: str | None = uid
    while at is not None:
        yield at
        at = pool.layers[at].parent
