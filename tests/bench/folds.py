"""Folds of 4 GiB against `qemu-img commit`: by copying, and on a file system that shares blocks.

A disk of twice the size lies in fragments turn about in two layers: the upper one's go down, or the lower one's go up;
either way the fold moves the same bytes into a file that doesn't have these clusters. `qemu-img commit -d` does the
first. The sources are in the page cache, and both tools end with everything on the disk. The bytes of the disk are
compared with what they have to be after each kind of fold.
"""

import pathlib
import subprocess
from collections.abc import Callable, Iterator

from snapd import units
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, fold, writer
from tests import filesystems
from tests.bench import figures, layers, timing

RUNS = 3
_COMMIT = ("qemu-img", "commit", "-q", "-d", "-f", "qcow2")

Goals = dict[int, float | None]
"""Of ours over theirs, by the bytes of a fragment."""


def measure_copies(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures of folds that copy; folder is empty."""
    _require_right_sizes(folder)
    expected = _write_disk(folder, quick=quick)
    yield from _on(folder, expected, "copying", {4 * units.MIB: 1 / 1.2, 64 * units.KIB: None})


def measure_reflinks(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures of folds that share blocks, none if there is no way to such a file system; folder is empty."""
    expected = _write_disk(folder, quick=quick)
    with filesystems.reflinking(folder, 2 * expected.stat().st_size + units.GIB) as place:
        if place is None:
            print("  left out: this needs root and xfsprogs")
        else:
            yield from _on(place, expected, "reflinks", {4 * units.MIB: 1 / 20, 64 * units.KIB: None})


def _write_disk(folder: pathlib.Path, *, quick: bool) -> pathlib.Path:
    path = folder / "expected.raw"
    layers.write_disk(path, (512 if quick else 8192) * units.MIB)
    return path


def _on(place: pathlib.Path, expected: pathlib.Path, how: str, goals: Goals) -> Iterator[figures.Figure]:
    """Measure on the file system of a folder."""
    size = expected.stat().st_size
    for fragment, goal in goals.items():
        down, up, commit = _compare(layers.Pair(place, size, fragment), expected)
        what = f"{units.format_size(size // 2)}, {how}, fragments of {units.format_size(fragment)}"
        yield figures.compared(f"fold down: {what}", down, "qemu-img commit", commit, goal)
        yield figures.compared(f"fold up: {what}", up, "qemu-img commit", commit, goal)


def _compare(pair: layers.Pair, expected: pathlib.Path) -> list[list[timing.Sample]]:
    """Return the runs of both folds and of QEMU's commit, each undone and the first of each proven right."""

    def timed(run: int, action: Callable[[layers.Pair], None], disk: pathlib.Path) -> timing.Sample:
        pair.warm()
        sample = timing.call(lambda: action(pair))
        if run == 0:
            if disk == pair.top:
                create.set_backing_name(pair.top, None)
            layers.require_disk(disk, expected)
        pair.undo()
        return sample

    try:
        return figures.alternate(
            RUNS,
            lambda run: timed(run, _fold_down, pair.lower),
            lambda run: timed(run, _fold_up, pair.top),
            lambda run: timed(run, lambda pair: _run(*_COMMIT, pair.top), pair.lower),
        )
    finally:
        pair.remove()


def _fold_down(pair: layers.Pair) -> None:
    with image.Image.open(pair.top) as child:
        fold.fold_down(child, pair.lower, None)


def _fold_up(pair: layers.Pair) -> None:
    with image.Image.open(pair.lower) as lower:
        fold.fold_up(lower, pair.top, None)


def _run(*command: str | pathlib.Path) -> None:
    subprocess.run(command, check=True)


# --- sizes that differ ------------------------------------------------------------------------------------------------


def _require_right_sizes(folder: pathlib.Path) -> None:
    """Require that a fold keeps what the guest sees where the layers' sizes differ; say where QEMU's commit doesn't."""
    base, lower, top = folder / "base.qcow2", folder / "lower.qcow2", folder / "top.qcow2"
    sizes = [(96 * units.MIB, 64 * units.MIB, 80 * units.MIB), (64 * units.MIB, 96 * units.MIB, 80 * units.MIB)]
    for lower_first in sizes:
        for action in ("fold down", "fold up", "commit"):
            for path, below, size, byte in zip(
                (base, lower, top), (None, base, lower), lower_first, (1, 2, 3), strict=True
            ):
                create.create(path, size_bytes=size, backing_name=None if below is None else below.name)
                with writer.Writer.open(path) as target:
                    target.write(byte * units.MIB, bytes([byte]) * units.MIB)
                    target.write(size - units.MIB, bytes([byte]) * units.MIB)
            before, after = folder / "before.raw", folder / "after.raw"
            _run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, before)
            disk = _fold_three(action, base, lower, top)
            _run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, after)
            right = before.read_bytes() == after.read_bytes()
            assert right or action == "commit", f"a {action} of layers of {lower_first} bytes"
            if not right:
                print(f"  QEMU's commit of layers of {lower_first} bytes changes what the guest sees")
            for path in (base, lower, top):
                path.unlink()


def _fold_three(action: str, base: pathlib.Path, lower: pathlib.Path, top: pathlib.Path) -> pathlib.Path:
    """Fold the lower of the two overlays and the upper one into one; return the file that is the disk then."""
    if action == "commit":
        _run(*_COMMIT, top)
        return lower
    with image.Image.open(base) as bottom:
        beneath = chain.Chain([bottom])
        if action == "fold down":
            with image.Image.open(top) as child:
                fold.fold_down(child, lower, beneath)
            return lower
        with image.Image.open(lower) as middle:
            fold.fold_up(middle, top, beneath)
    create.set_backing_name(top, base.name)
    return top
