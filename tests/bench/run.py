"""Run the benchmarks: `python -m tests.bench.run [NAME…]`.

Prints a table, in red what misses its goal, and writes var/bench.json. A benchmark reports; it doesn't judge by its
exit status, since a busy machine is no fault of the code.
"""

import pathlib
import sys
import tempfile

from tests.bench import archiving, capture, figures

BENCHMARKS = {"capture": capture.measure, "archiving": archiving.measure}


def main(names: list[str]) -> None:
    """Run the named benchmarks, or all."""
    here = pathlib.Path("var")
    here.mkdir(exist_ok=True)
    found: list[figures.Figure] = []
    for name in names or list(BENCHMARKS):
        print(f"measuring {name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=here.absolute()) as folder:
            found.extend(BENCHMARKS[name](pathlib.Path(folder)))
    figures.report(found, here / "bench.json")


if __name__ == "__main__":
    main(sys.argv[1:])
