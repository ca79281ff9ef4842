"""Layer files: where they lie, how they come and go. Names are made of uids and never of what a caller typed.

<pool>/<2 hex>/<layer uid>.qcow2     a layer; read-only once frozen
<pool>/staging/<volume uid>          an image that is being uploaded, before it is vetted
"""

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from snapd import errors, fsops, model
from snapd.qcow2.format import header
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create

HEAD_MODE = 0o640
LENT_MODE = 0o660
"""Of a head that is lent to another account to be written: the group's bits are the mask of the access list."""
FROZEN_MODE = 0o440
FILLING_MODE = 0o650
"""Of a frozen layer whose file is changed, and not what it shows: nothing else may tell it from a head."""
MERGING_MODE = 0o600
"""Of a layer that receives the data of the only one that stands on it: what it shows by itself is nobody's."""
MERGED_MODE = 0o400
"""Of the one that stands on it: the file goes when the other one takes its name, and the mark goes with it."""
_DESCRIPTION_ROOM = 4096
"""Bytes of a header that are kept for a description, since a fold puts another one there."""
_SUFFIX = ".qcow2"
_TEMPORARY = ".tmp"
_STAGING = "staging"
_STAT_BLOCK = 512
"""Bytes of the unit in which stat counts, whatever the file system's is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Space of the pool's file system, in bytes."""

    total: int
    free: int


class Pool:
    """The folder of layers."""

    def __init__(self, root: pathlib.Path, low_watermark_bytes: int) -> None:
        """Open or make the folder. Raises errors.StorageFailed, errors.StorageFull."""
        self.root = root
        self.low_watermark_bytes = low_watermark_bytes
        self._staging = root / _STAGING
        with fsops.translated(root):
            if not is_there(root):
                # All of them at once, so that no capture has to make and sync one.
                fsops.make_directory(root)
                fsops.make_directories(root, [f"{number:02x}" for number in range(256)])
                fsops.make_directory(self._staging)

    # --- paths --------------------------------------------------------------------------------------------------------

    def path(self, uid: str) -> pathlib.Path:
        """Return where a layer's file lies."""
        return self.root / uid[:2] / f"{uid}.qcow2"

    def temporary_path(self, uid: str) -> pathlib.Path:
        """Return where a layer's file lies until it is whole."""
        return self.root / uid[:2] / f"{uid}{_TEMPORARY}"

    def staging_path(self, volume_uid: str) -> pathlib.Path:
        """Return where the image lies that is being uploaded for a volume."""
        return self._staging / volume_uid

    def backing_name(self, parent: str | None) -> str | None:
        """Return how an overlay's header names its parent: relative, so that the pool can be moved."""
        return None if parent is None else f"../{parent[:2]}/{parent}.qcow2"

    # --- life ---------------------------------------------------------------------------------------------------------

    def create(self, layer: model.Layer, description: bytes | None = None) -> None:
        """Make a layer's empty file, durably; one that is there already, whole by its name, is kept.

        A description is written into the header, so that a lost catalog can be rebuilt: whose head it was made to be.
        """
        final = self.path(layer.uid)
        with fsops.translated(final):
            if self.is_made(layer.uid):
                return
            temporary = self.prepare(layer, description)
            fsops.point("pool.layer_written")
            fsops.publish(temporary, final)

    def is_made(self, uid: str) -> bool:
        """Say whether a layer's file has its name, and have that durable: who gave it may have died before it was."""
        final = self.path(uid)
        with fsops.translated(final):
            if not final.exists():
                return False
            fsops.sync_directory(final.parent)
        return True

    def prepare(self, layer: model.Layer, description: bytes | None = None) -> pathlib.Path:
        """Make a layer's empty file under its temporary name, in the place of one left behind, and return its path.

        The description is that of `create`.
        """
        temporary = self.temporary_path(layer.uid)
        with fsops.translated(temporary):
            if temporary.exists():
                fsops.unlink(temporary, durable=False)
            create.create(
                temporary,
                size_bytes=layer.size_bytes,
                backing_name=self.backing_name(layer.parent),
                extensions=[(header.POINT_EXTENSION, (description or b"").ljust(_DESCRIPTION_ROOM, b" "))],
                mode=HEAD_MODE,
            )
        return temporary

    def publish(self, uid: str) -> None:
        """Give a layer that was prepared and filled its name. It must have been flushed."""
        with fsops.translated(self.path(uid)):
            fsops.publish(self.temporary_path(uid), self.path(uid))

    def freeze(self, uid: str, *, durable: bool = False) -> None:
        """Take the permission to write from a layer's file; the catalog says already that it is frozen.

        Durable is for who may wait until all of the file has been written to the disk.
        """
        with fsops.translated(self.path(uid)):
            fsops.set_mode(self.path(uid), FROZEN_MODE, durable=durable)

    def settle_mode(self, uid: str) -> None:
        """Make the permissions that a layer's file has durable."""
        with fsops.translated(self.path(uid)):
            fd = os.open(self.path(uid), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fsops.fsync(fd)
            finally:
                os.close(fd)

    def thaw(self, uid: str) -> None:
        """Give the permission to write back, durably, for a change that leaves what the layer shows as it is."""
        with fsops.translated(self.path(uid)):
            fsops.set_mode(self.path(uid), FILLING_MODE, durable=True)

    def description(self, uid: str) -> bytes:
        """Return what a layer's header says of it, b"" if nothing. Raises errors.ImageRefused, errors.StorageFailed."""
        with image.Image.open(self.path(uid)) as opened:
            return (opened.header.extension(header.POINT_EXTENSION) or b"").rstrip()

    def describe(self, uid: str, description: bytes) -> bool:
        """Have a layer's header say something else; False if it has no room for that. Raises as `description`."""
        return create.replace_extension(self.path(uid), header.POINT_EXTENSION, description)

    def begin_merge(self, lower: str, child: str) -> None:
        """Make the lower of two layers writable, and have both files say, durably, that it is to become the child.

        As long as both say so, only what shows through the child is anybody's; a lost catalog is rebuilt by that. When
        the lower file takes the child's name, the child's file and with it the mark are gone in the same instant.
        """
        with fsops.translated(self.path(lower)):
            fsops.set_mode(self.path(child), MERGED_MODE, durable=True)
            fsops.set_mode(self.path(lower), MERGING_MODE, durable=True)

    def is_writable(self, uid: str) -> bool:
        """Say whether a layer's file has the permissions of a head, lent or not, and no mark of a fold."""
        return self.mode(uid) in (HEAD_MODE, LENT_MODE)

    def is_merged(self, uid: str) -> bool:
        """Say whether a fold that is under way puts a layer's data into the one below, which will take its name."""
        return self.mode(uid) == MERGED_MODE

    def mode(self, uid: str) -> int:
        """Return the permissions of a layer's file: one of those above, unless somebody changed them."""
        with fsops.translated(self.path(uid)):
            return stat.S_IMODE(os.stat(self.path(uid)).st_mode)

    def is_frozen(self, uid: str) -> bool:
        """Say whether the permission to write has been taken from a layer's file."""
        with fsops.translated(self.path(uid)):
            return os.stat(self.path(uid)).st_mode & stat.S_IWUSR == 0

    def remove(self, uid: str) -> None:
        """Remove a layer's file, whole or not, durably: its row goes next, and then nothing explains it any more.

        The folder is synced whatever is found, since a process that died before may have come no further.
        """
        final = self.path(uid)
        with fsops.translated(final):
            fsops.unlink(self.temporary_path(uid), durable=False)
            fsops.unlink(final, durable=False)
            fsops.sync_directory(final.parent)

    def remove_half_made(self, path: pathlib.Path) -> bool:
        """Remove a file that was to become a layer, durably; False for any other."""
        if path.suffix != _TEMPORARY or path != self.temporary_path(path.stem):
            return False
        with fsops.translated(path):
            fsops.unlink(path)
        return True

    def remove_staging(self, volume_uid: str) -> None:
        """Remove an uploaded image, if it is there."""
        with fsops.translated(self._staging):
            fsops.unlink(self.staging_path(volume_uid))

    def staged(self) -> set[str]:
        """Return the uids of the volumes for which there is an uploaded image."""
        with fsops.translated(self._staging):
            return set(os.listdir(self._staging))

    # --- contents and space -------------------------------------------------------------------------------------------

    @contextmanager
    def opened(self, layers: Sequence[model.Layer], *, past_cache: bool = False) -> Iterator[chain.Chain]:
        """Open layers, given from the top downwards, to be read as one disk. Headers are compared, never followed.

        `past_cache` is that of image.Image.open.
        A fold that has yet to be finished may have put a layer beyond the one that is folded already, or have taken
        the latter's file. Raises errors.Corrupt if a file is not what the catalog says.
        """
        with ExitStack() as stack:
            images: list[image.Image] = []
            for layer, below in zip(layers, [*layers[1:], None], strict=True):
                if layer.state is model.LayerState.FOLDING and not self.path(layer.uid).exists():
                    continue
                opened = stack.enter_context(image.Image.open(self.path(layer.uid), past_cache=past_cache))
                images.append(opened)
                expected = {self.backing_name(layer.parent)}
                if below is not None and below.state is model.LayerState.FOLDING:
                    expected.add(self.backing_name(below.parent))
                if opened.size_bytes != layer.size_bytes or opened.header.backing_name not in expected:
                    raise errors.Corrupt(
                        what=f"layer {layer.uid}",
                        problem=f"its header says {opened.size_bytes} bytes on {opened.header.backing_name},"
                        f" the catalog {layer.size_bytes} on {self.backing_name(layer.parent)}",
                    )
            yield chain.Chain(images)

    def allocated_bytes(self, uid: str) -> int:
        """Return the space that a layer's file takes; 0 if it isn't there."""
        return _allocated_bytes(self.path(uid))

    def used_bytes(self) -> int:
        """Return the space that all files of the pool take; they may come and go meanwhile."""
        return sum(map(_allocated_bytes, self.files()))

    def usage(self) -> Usage:
        """Return the space of the pool's file system."""
        with fsops.translated(self.root):
            status = os.statvfs(self.root)
        return Usage(total=status.f_blocks * status.f_frsize, free=status.f_bavail * status.f_frsize)

    def require_room(self, size_bytes: int = 0) -> None:
        """Raise errors.PoolFull if less than the low watermark is, or would be, free."""
        free = self.usage().free
        if free - size_bytes < self.low_watermark_bytes:
            raise errors.PoolFull(free_bytes=free, watermark_bytes=self.low_watermark_bytes)

    def has_reserve(self, size_bytes: int) -> bool:
        """Say whether half of the low watermark would stay free: so far the daemon's own work may go."""
        return self.usage().free - size_bytes >= self.low_watermark_bytes // 2

    def files(self) -> Iterator[pathlib.Path]:
        """Yield every file of the pool, whatever it is."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                yield pathlib.Path(folder, name)

    def strays(self, known: set[str], files: Iterable[pathlib.Path] | None = None) -> list[pathlib.Path]:
        """Return the files of the pool, or of some given ones, that belong to no layer or upload of `known` uids."""
        there = self.files() if files is None else files
        return [path for path in there if path.name.removesuffix(_TEMPORARY).removesuffix(".qcow2") not in known]


def is_there(root: pathlib.Path) -> bool:
    """Say whether a pool was made in a folder."""
    return (root / _STAGING).is_dir()


def holds_layers(root: pathlib.Path) -> bool:
    """Say whether there is the file of a layer in a folder."""
    return any(name.endswith(_SUFFIX) for _, _, names in os.walk(root) for name in names)


def _allocated_bytes(path: pathlib.Path) -> int:
    try:
        return os.stat(path).st_blocks * _STAT_BLOCK
    except FileNotFoundError:
        return 0
