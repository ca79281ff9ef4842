"""Checks of a terabyte: the same verdict and counts as `qemu-img check`, in process and as a command.

QEMU's side is its command in both. The file is in the page cache.
"""

import json
import pathlib
import subprocess
from collections.abc import Iterator

from snapd import units
from snapd.qcow2.checking import check
from tests.bench import figures, images, inside, timing

RUNS = 7
_FRAGMENT = 8 * images.CLUSTER
_THEIRS = ("qemu-img", "check", "--output=json")
_COUNTS = {
    "image-end-offset": "image_end_bytes",
    "total-clusters": "total_clusters",
    "allocated-clusters": "allocated_clusters",
    "fragmented-clusters": "fragmented_clusters",
    "compressed-clusters": "compressed_clusters",
    "check-errors": "check_errors",
}


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty."""
    size = 64 * units.GIB if quick else units.TIB
    runs = 3 if quick else RUNS
    path = folder / "mapped.qcow2"
    for extent in (size, _FRAGMENT):
        count = images.make_mapped(path, size, extent)
        what = f"{units.format_size(size)}, {count:,} extent{'s' if count > 1 else ''}"
        theirs = json.loads(subprocess.run([*_THEIRS, path], check=True, capture_output=True).stdout)
        _require_same(check.check(path), theirs)
        yield _compare(f"check in process: {what}", path, runs)
        yield _commands(path, theirs, what, runs)
        peak = inside.peak_bytes("check", path)
        yield figures.Figure(
            f"memory for a check in process: {what}", peak / units.MIB, "its tables", _tables(path), "MiB", None
        )
        path.unlink()


def _compare(what: str, path: pathlib.Path, runs: int) -> figures.Figure:
    ours, theirs = figures.alternate(
        runs, lambda _: timing.call(lambda: check.check(path)), lambda _: timing.command([*_THEIRS, path])
    )
    return figures.compared(what, ours, "qemu-img check", theirs, 1 / 3)


def _commands(path: pathlib.Path, expected: dict[str, object], what: str, runs: int) -> figures.Figure:
    command = (inside.TOOL, "image", "check", "--output=json", path)
    printed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert printed == expected, f"{printed}, with QEMU {expected}"
    ours, theirs = figures.alternate(
        runs, lambda _: timing.command(command), lambda _: timing.command([*_THEIRS, path])
    )
    return figures.compared(f"check as a command, equal JSON: {what}", ours, "qemu-img check", theirs, 1 / 3)


def _require_same(ours: check.CheckReport, theirs: dict[str, int]) -> None:
    """Require an equal verdict and equal counts; QEMU leaves out what is 0."""
    assert ours.corruptions == theirs.get("corruptions", 0), theirs
    assert ours.leaks == theirs.get("leaks", 0), theirs
    for their_name, our_name in _COUNTS.items():
        assert getattr(ours, our_name) == theirs.get(their_name, 0), f"{their_name}: {ours}, with QEMU {theirs}"


def _tables(path: pathlib.Path) -> float:
    """Return the MiB of the file that isn't a hole: header and tables."""
    return path.stat().st_blocks * units.SECTOR / units.MIB
