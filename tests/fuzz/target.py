"""The fuzz target, with the coverage of snapd alone. `tests.fuzz.run` starts it; arguments are libFuzzer's.

A finding doesn't end the run: the smallest input of each kind is kept in the folder that ends the arguments.
"""

import hashlib
import pathlib
import re
import sys
import tempfile
import traceback

import atheris

from tests.fuzz import mutation

with atheris.instrument_imports(include=["snapd"]):
    from tests.fuzz import oracle


class Target:
    """Tries one input after another."""

    def __init__(self, judge: oracle.Judge, findings: pathlib.Path) -> None:
        self._judge = judge
        self._findings = findings

    def __call__(self, data: bytes) -> None:
        """Try an input, and keep it if it breaks a promise."""
        try:
            self._judge.judge(data)
        except Exception as error:  # whatever comes out is the finding
            self._keep(data, error)

    def _keep(self, data: bytes, error: Exception) -> None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/snapd/" in frame.filename]
        place = f"{frames[-1].name} {frames[-1].line}" if frames else ""
        what = f"{type(error).__name__} {place} {re.sub('[0-9]+', '', str(error))}"
        path = self._findings / f"{hashlib.sha256(what.encode()).hexdigest()[:12]}.bin"
        if path.exists() and path.stat().st_size <= len(data):
            return
        if not path.exists():
            print(f"\nfinding {path}", file=sys.stderr)
            traceback.print_exception(error, limit=-8)
        path.write_bytes(data)


def mutate(data: bytes, longest: int, seed: int) -> bytes:
    """Do as libFuzzer's mutators do."""
    return mutation.mutate(data, longest, seed, atheris.Mutate)


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer has had enough; this doesn't return."""
    *flags, findings = arguments
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm") as folder:
        judge = oracle.Judge(pathlib.Path(folder))
        atheris.Setup([sys.argv[0], *flags], Target(judge, pathlib.Path(findings)), custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
