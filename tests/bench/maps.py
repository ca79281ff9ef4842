"""Block maps of a terabyte: in process against the whole of `qemu-img map`, and as commands that print the same.

QEMU's side is always its command, from start to end, its JSON going nowhere: there is no other way to QEMU's maps. Ours
in process is opening the image and having the map of every 4 GiB of the disk as arrays. Both read a file that is in the
page cache, and what is mapped is found to be the same before anything is timed.
"""

import json
import pathlib
from collections.abc import Iterator

from snapd import blockmap, units
from snapd.qcow2.reading import image
from tests.bench import figures, images, inside, timing

RUNS = 7
_FRAGMENT = 8 * images.CLUSTER


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty."""
    size = 64 * units.GIB if quick else units.TIB
    runs = 3 if quick else RUNS
    path = folder / "mapped.qcow2"
    for extent, goal in ((size, 1 / 5), (_FRAGMENT, 1 / 20)):
        count = images.make_mapped(path, size, extent)
        what = f"{units.format_size(size)}, {count:,} extent{'s' if count > 1 else ''}"
        theirs_json = folder / "theirs.json"
        timing.command(["qemu-img", "map", "--output=json", path], theirs_json)
        _require_same(path, theirs_json)
        yield _in_process(path, what, runs, goal)
        yield _commands(path, theirs_json, what, runs)
        path.unlink()
    yield from _memory(path, size)


def _in_process(path: pathlib.Path, what: str, runs: int, goal: float) -> figures.Figure:
    ours, theirs = figures.alternate(
        runs,
        lambda _: timing.call(lambda: inside.map_windows(path)),
        lambda _: timing.command(["qemu-img", "map", "--output=json", path]),
    )
    return figures.compared(f"map in process: {what}", ours, "qemu-img map", theirs, goal)


def _commands(path: pathlib.Path, theirs_json: pathlib.Path, what: str, runs: int) -> figures.Figure:
    command = (inside.TOOL, "image", "map", "--output=json", path)
    ours_json = theirs_json.with_name("ours.json")
    timing.command(command, ours_json)
    for number, (one, other) in enumerate(
        zip(_joined(_printed(ours_json)), _joined(_printed(theirs_json)), strict=True)
    ):
        assert one == other, f"entry {number} of the maps: {one}, with QEMU {other}"
    ours, theirs = figures.alternate(
        runs,
        lambda _: timing.command(command),
        lambda _: timing.command(["qemu-img", "map", "--output=json", path]),
    )
    return figures.compared(f"map as a command, equal JSON: {what}", ours, "qemu-img map", theirs, 1 / 2)


def _memory(path: pathlib.Path, size: int) -> Iterator[figures.Figure]:
    """Compare the memory that two images take, one 16 times as large: both hold several windows of fragments."""
    actions = {"in process": ("map",), "as a command": ("command", "image", "map", "--output=json")}
    peaks = []
    for size_bytes in (size // 16, size):
        images.make_mapped(path, size_bytes, _FRAGMENT)
        peaks.append([inside.peak_bytes(*arguments, path) / units.MIB for arguments in actions.values()])
        path.unlink()
    for name, small, large in zip(actions, *peaks, strict=True):
        yield figures.Figure(
            f"memory for a map {name}: {units.format_size(size)}, extents of {units.format_size(_FRAGMENT)}",
            large,
            f"{units.format_size(size // 16)}",
            small,
            "MiB",
            1.2,
        )


def _require_same(path: pathlib.Path, theirs: pathlib.Path) -> None:
    """Require that the engine maps an image as QEMU does."""
    for ours, entry in zip(_joined(_mapped(path)), _joined(_printed(theirs)), strict=True):
        assert ours == {name: entry[name] for name in ours}, f"{ours}, with QEMU {entry}"


def _mapped(path: pathlib.Path) -> Iterator[dict[str, int]]:
    """Yield what the engine maps, all of it data, with the names of QEMU's fields."""
    with image.Image.open(path) as opened:
        for start, length in blockmap.windows(opened.size_bytes):
            extents = opened.block_map(start, length)
            for values in zip(extents.start.tolist(), extents.length.tolist(), extents.host.tolist(), strict=True):
                yield dict(zip(("start", "length", "offset"), values, strict=True))


def _joined(entries: Iterator[dict[str, int]]) -> Iterator[dict[str, int]]:
    """Yield the entries of a map, neighbours that continue each other as one."""
    before: dict[str, int] | None = None
    for entry in entries:
        if before is not None and _continues(before, entry):
            before["length"] += entry["length"]
            continue
        if before is not None:
            yield before
        before = entry
    if before is not None:
        yield before


def _printed(path: pathlib.Path) -> Iterator[dict[str, int]]:
    """Yield the entries of a map in JSON one by one: millions in one list would take gigabytes."""
    text = path.read_text()
    decoder = json.JSONDecoder()
    at = text.index("[") + 1
    while (at := _next(text, at)) < len(text):
        entry, at = decoder.raw_decode(text, at)
        yield entry


def _next(text: str, at: int) -> int:
    found = text.find("{", at)
    return len(text) if found < 0 else found


def _continues(before: dict[str, int], entry: dict[str, int]) -> bool:
    others = before.keys() - {"start", "length", "offset"}
    follows = before.get("offset", 0) + before["length"] == entry.get("offset") if "offset" in before else True
    return (
        before.keys() == entry.keys()
        and before["start"] + before["length"] == entry["start"]
        and all(before[key] == entry[key] for key in others)
        and follows
    )
