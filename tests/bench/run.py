"""Run the benchmarks: `python -m tests.bench.run [NAME…]`.

Prints a table and writes var/bench.json; the exit status is 1 if a goal is missed.
"""

import pathlib
import sys
import tempfile

from tests.bench import archiving, capture, figures

BENCHMARKS = {"capture": capture.measure, "archiving": archiving.measure}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all."""
    here = pathlib.Path("var")
    here.mkdir(exist_ok=True)
    found: list[figures.Figure] = []
    for name in names or list(BENCHMARKS):
        print(f"measuring {name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=here.absolute()) as folder:
            found.extend(BENCHMARKS[name](pathlib.Path(folder)))
    figures.report(found, here / "bench.json")
    return 0 if all(figure.met for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
