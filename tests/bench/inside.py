"""The memory that an action of the engine takes: `python -m tests.bench.inside ACTION…` prints the peak in KiB.

The action is `map IMAGE`, `check IMAGE`, or `command ARGUMENTS…` for the daemon's command line. A process of its own
is needed, since the allocator of one that did other things before keeps memory back.
"""

import os
import pathlib
import subprocess
import sys

from snapd import __main__, blockmap, units
from snapd.qcow2.checking import check
from snapd.qcow2.reading import image

TOOL = pathlib.Path(sys.executable).with_name("snapd-storage")
"""The daemon's command line, beside this interpreter."""


def peak_bytes(*arguments: str | pathlib.Path, output: pathlib.Path | None = None) -> int:
    """Run an action in a process of its own; return its peak of resident bytes less what the interpreter took before.

    What it prints goes to a file or nowhere.
    """
    with (output or pathlib.Path(os.devnull)).open("wb") as target:
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.inside", *map(str, arguments)],
            check=True,
            stdout=target,
            stderr=subprocess.PIPE,
        )
    return int(done.stderr.split()[-1]) * units.KIB


_SPAN = 4 * units.GIB
"""Of the disk that is mapped at a time: the arrays of its extents stay in the processor's cache."""


def map_windows(path: pathlib.Path) -> int:
    """Map an image a window at a time, and return how many extents the windows had."""
    count = 0
    with image.Image.open(path) as opened:
        for start, length in blockmap.windows(opened.size_bytes, _SPAN):
            count += len(opened.block_map(start, length))
    return count


def _resident(field: str) -> int:
    (line,) = (
        line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")
    )
    return int(line.split()[1])


def _main(action: str, *arguments: str) -> None:
    before = _resident("VmRSS")
    if action == "map":
        map_windows(pathlib.Path(arguments[0]))
    elif action == "check":
        check.check(pathlib.Path(arguments[0]))
    elif action == "command":
        __main__.main(arguments, standalone_mode=False)
    else:
        raise SystemExit(f"no such action: {action}")
    print(_resident("VmHWM") - before, file=sys.stderr)


if __name__ == "__main__":
    _main(*sys.argv[1:])
