"""What the headers and modes of a pool's files say to whoever rebuilds a lost catalog: it must be true at any moment.

A capture's overlay says which snapshot was taken of the layer that it was put on. Unless that layer is being merged
with what stands on it, by the modes of both, it shows that snapshot to the end.
"""

import contextlib
import dataclasses
import pathlib

from snapd.qcow2.format import header
from snapd.qcow2.reading import chain, image
from snapd.service import descriptions
from snapd.service.settings import Settings
from tests.simulation import contents, ledger


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    """A layer's file, as it tells of itself."""

    path: pathlib.Path
    below: str | None
    mode: int
    head: descriptions.Head | None


def verify(settings: Settings, known: ledger.Ledger) -> None:
    """Compare what files claim with what callers were told. Raises contents.WrongBytes. No service may be open."""
    files = {path.stem: _look(path) for path in sorted(settings.pool_path.glob("??/*.qcow2"))}
    for file in files.values():
        if file.head is None or file.head.stand is None or file.head.taken is None:
            continue
        snapshot = known.snapshots.get(file.head.taken.id)
        layer = file.head.stand.layer
        if snapshot is None or not snapshot.present or snapshot.ending or not _is_shown(files, layer):
            continue
        data = _read(files, layer)
        if data is not None and all(candidate.difference(data) for candidate in snapshot.candidates):
            claim = f"{file.path.name} says that {layer} shows {snapshot.id}"
            raise contents.WrongBytes(f"{claim}: {snapshot.candidates[0].difference(data)}")


def _look(path: pathlib.Path) -> _File:
    with image.Image.open(path) as opened:
        data = (opened.header.extension(header.POINT_EXTENSION) or b"").rstrip()
        name = opened.header.backing_name
    below = None if name is None else pathlib.Path(name).stem
    assert below is None or name == f"../{below[:2]}/{below}.qcow2"
    return _File(path, below, path.stat().st_mode & 0o777, descriptions.decode_head(data) if data else None)


def _is_shown(files: dict[str, _File], uid: str) -> bool:
    """Say whether a layer shows the point that is said of it: it is there, and isn't about to become another one."""
    if uid not in files:
        return False
    merged = any(file.below == uid and file.mode != 0o440 for file in files.values())
    return not (merged and files[uid].mode == 0o600)


def _read(files: dict[str, _File], uid: str) -> bytes | None:
    """Return what a layer shows, None if something that it stands on is gone."""
    with contextlib.ExitStack() as stack:
        images = []
        below: str | None = uid
        while below is not None:
            if below not in files:
                return None
            images.append(stack.enter_context(image.Image.open(files[below].path)))
            below = files[below].below
        disk = chain.Chain(images)
        data = bytearray(disk.size_bytes)
        disk.read_into(0, memoryview(data))
        return bytes(data)
