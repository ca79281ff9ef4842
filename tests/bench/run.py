"""Run the benchmarks: `python -m tests.bench.run [--quick] [--only NAME]…`.

Prints a table, in red what misses its goal, and writes var/bench.json. A benchmark reports; it doesn't judge by its
exit status, since a busy machine is no fault of the code.
"""

import argparse
import dataclasses
import pathlib
import signal
import sys
import tempfile

from tests.bench import (
    archive_first,
    archive_footprint,
    archive_fragmented,
    archive_profile,
    archive_restore,
    archive_second,
    capture,
    checks,
    converts,
    figures,
    folds,
    maps,
    reads,
)

BENCHMARKS = {
    "engine.map": maps.measure,
    "engine.check": checks.measure,
    "engine.fold.copy": folds.measure_copies,
    "engine.fold.reflink": folds.measure_reflinks,
    "engine.read": reads.measure,
    "engine.convert": converts.measure,
    "capture": capture.measure,
    "archive.first": archive_first.measure,
    "archive.second": archive_second.measure,
    "archive.restore": archive_restore.measure,
    "archive.fragmented": archive_fragmented.measure,
    "archive.footprint": archive_footprint.measure,
    "archive.profile": archive_profile.measure,
}


def main(names: list[str], quick: bool) -> None:
    """Run the named benchmarks."""
    here = pathlib.Path("var")
    here.mkdir(exist_ok=True)
    found: list[figures.Figure] = []
    try:
        for name in names:
            print(f"measuring {name} ...", flush=True)
            with tempfile.TemporaryDirectory(prefix="bench-", dir=here.absolute()) as folder:
                for figure in BENCHMARKS[name](pathlib.Path(folder), quick=quick):
                    print(f"  {figure.what}: {figure.ratio:.3g} of {figure.against}", flush=True)
                    # What starting a program takes hides everything else at small sizes.
                    found.append(dataclasses.replace(figure, at_most=None) if quick else figure)
    finally:
        # What was measured before something failed, too.
        figures.report(found, here / "bench.json")


def _parse() -> tuple[list[str], bool]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description="Measure.")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"a part of these: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, few runs, no goals: to see that it works")
    arguments = parser.parse_args()
    names = [name for name in BENCHMARKS if any(f"{name}.".startswith(f"{only}.") for only in arguments.only or [name])]
    if not names:
        parser.error(f"no benchmark is called {' or '.join(arguments.only)}")
    return names, arguments.quick


if __name__ == "__main__":
    # So that what a benchmark made is removed after a kill too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main(*_parse())
