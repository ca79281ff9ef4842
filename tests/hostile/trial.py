"""Tries of hostile files in the worker, and the limits that all of them are held to."""

import dataclasses
import hashlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterable

from snapd import units

MEMORY_BYTES = 64 * units.MIB
"""What a try may take beyond what the process has."""
CPU_S = 2.0
_HASHED = 64 * units.MIB
"""Larger files are sparse ones; that they weren't written shows in their times."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """How a try ended."""

    error: str
    """Name of what was raised, or ''."""
    message: str
    result: str
    """What the action found."""


class Worker:
    """The process that tries files."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, path: pathlib.Path, *names: str, changes: bool = False, memory_bytes: int = MEMORY_BYTES
    ) -> dict[str, Ending]:
        """Do actions with a file and return how each ended: within the limits, opening nothing else.

        Unless they are expected to change the file, it is the same afterwards.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        before = _likeness(path)
        self._process.stdin.write(json.dumps({"actions": names, "path": str(path)}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "killed" not in answer, f"{names} took too long: {answer}"
        assert answer["foreign"] == [], f"{names}: {answer}"
        assert answer["peak_bytes"] <= memory_bytes, f"{names} took {units.format_size(answer['peak_bytes'])}"
        assert answer["cpu_s"] <= CPU_S, f"{names} took {answer['cpu_s']} s"
        assert changes or _likeness(path) == before, f"{names} changed the file"
        return {name: Ending(**ending) for name, ending in answer["endings"].items()}

    def expect(self, path: pathlib.Path, names: Iterable[str], error: str, message: str) -> None:
        """Do actions with a file and require that each ends with that error and with a message that has that part."""
        for name, ending in self.run(path, *names).items():
            assert ending.error == error, f"{name}: {ending}"
            assert message in ending.message, f"{name}: {ending}"

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _likeness(path: pathlib.Path) -> tuple[int, int, str]:
    status = path.lstat()
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and status.st_size <= _HASHED else ""
    return status.st_size, status.st_mtime_ns, digest
