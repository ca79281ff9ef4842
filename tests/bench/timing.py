"""How long something takes, on the clock and on the processors, in this process or as a command of its own."""

import dataclasses
import os
import pathlib
import resource
import subprocess
import time
from collections.abc import Callable, Sequence

Command = Sequence[str | pathlib.Path]


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One run."""

    seconds: float
    """On the clock."""
    cpu_seconds: float
    """Of all processors, in the program and in the kernel for it."""


def call(action: Callable[[], object]) -> Sample:
    """Time a call, with all threads of this process and the commands that it waits for."""
    begin, cpu_begin = time.perf_counter(), _cpu_seconds()
    action()
    return Sample(time.perf_counter() - begin, _cpu_seconds() - cpu_begin)


def command(arguments: Command, output: pathlib.Path | None = None) -> Sample:
    """Time a command, from its start to its end; what it prints goes to a file or nowhere. It has to succeed."""
    with (output or pathlib.Path(os.devnull)).open("wb") as target:
        return call(lambda: subprocess.run(arguments, check=True, stdout=target, stdin=subprocess.DEVNULL))


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
