"""What is done with a hostile image: everything that the engine does with an image. Each action tells what it found."""

import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from snapd import units
from snapd.copier import control, convert
from snapd.qcow2.checking import check, vet
from snapd.qcow2.reading import chain
from snapd.qcow2.reading.image import Image
from snapd.qcow2.writing import create, fold, writer

_PIECE = 4 * units.MIB
_THREADS = 2
_OWN = units.MIB
"""So much at the beginning of the disk is what a merge into the image must leave alone."""


@contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give the path of a new file beside another for the length of a block; then it goes."""
    beside = path.with_name(path.name + ".new")
    try:
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _open(path: pathlib.Path) -> str:
    with Image.open(path) as opened:
        return opened.header.backing_name or ""


def _read(path: pathlib.Path) -> str:
    """Read all that the image holds, as a disk of its own."""
    with Image.open(path) as opened:
        disk = chain.Chain([opened])
        extents = opened.block_map(0, opened.size_bytes)
        buffer = memoryview(bytearray(_PIECE))
        other = 0
        for offset, length in convert.runs(extents, _PIECE):
            disk.read_extents_into(extents, offset, buffer[:length])
            other += length - bytes(buffer[:length]).count(0)
        return f"{other} bytes that aren't zero"


def _check(path: pathlib.Path) -> str:
    report = check.check(path)
    return f"{report.corruptions + report.check_errors} bad, {report.leaks} leaks"


def _import(path: pathlib.Path) -> str:
    """Vet the image and rewrite it, as an import does."""
    with _beside(path) as target:
        size_bytes = vet.vet_import(path).size_bytes
        with vet.open_import(path) as source:
            create.create(target, size_bytes=size_bytes)
            with writer.Writer.open(target) as written:
                convert.convert(chain.Chain([source]), written, _THREADS, control.Control())
        return str(size_bytes)


def _merge(path: pathlib.Path) -> str:
    """Fold the image into an empty overlay."""
    with _beside(path) as child, Image.open(path) as lower:
        create.create(child, size_bytes=lower.size_bytes, backing_name=path.name)
        return f"{fold.fold_up(lower, child, None)} bytes"


def _merge_into(path: pathlib.Path) -> str:
    """Fold an overlay that holds other clusters into the image, and say whether its own are what they were."""
    with _beside(path) as upper:
        with Image.open(path) as opened:
            size_bytes, before = opened.size_bytes, _contents(opened, 0, _OWN)
        create.create(upper, size_bytes=size_bytes, backing_name=path.name)
        with writer.Writer.open(upper) as target:
            target.write(_OWN, b"\x42" * _OWN)
        with Image.open(upper) as child:
            fold.fold_down(child, path, None)
        with Image.open(path) as opened:
            same = _contents(opened, 0, _OWN) == before and _contents(opened, _OWN, _OWN) == b"\x42" * _OWN
        return "as it was" if same else "changed"


def _contents(opened: Image, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    chain.Chain([opened]).read_into(offset, memoryview(buffer))
    return bytes(buffer)


def _write(path: pathlib.Path) -> str:
    """Write into the image's first cluster."""
    with writer.Writer.open(path) as target:
        target.write(0, bytes(units.SECTOR))
    return ""


def _snapshots(path: pathlib.Path) -> str:
    """List the internal snapshots and map the first one's disk."""
    with Image.open(path) as opened:
        found = opened.snapshots()
        if found:
            with opened.of_snapshot(found[0].id) as disk:
                disk.block_map(0, disk.size_bytes)
        return str(len(found))


def _bitmaps(path: pathlib.Path) -> str:
    with Image.open(path) as opened:
        return str(len(opened.bitmaps()))


ACTIONS: dict[str, Callable[[pathlib.Path], str]] = {
    "open": _open,
    "read": _read,
    "check": _check,
    "import": _import,
    "merge": _merge,
    "merge into": _merge_into,
    "write": _write,
    "snapshots": _snapshots,
    "bitmaps": _bitmaps,
}
