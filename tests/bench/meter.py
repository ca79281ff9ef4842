"""Where the time of threads goes: thin wrappers around functions that are named, and nothing else.

A wrapper notes what a call took of its thread's processor time and of the clock, less what wrapped calls inside it
took. The clock without the processor is waiting: for the disk, for a lock, for the interpreter's own lock.
"""

import dataclasses
import functools
import importlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A function that is wrapped."""

    module: str
    name: str
    """Within the module: `function` or `Class.method`."""
    part: str
    """What its own time is counted as."""
    umbrella: bool = False
    """Whether what it calls is counted as a part of this part."""


@dataclasses.dataclass(slots=True)
class Spent:
    """What a part took in all threads."""

    calls: int = 0
    cpu_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def waiting_seconds(self) -> float:
        """On the clock, but not on a processor; summed over threads, so it may exceed what the run took."""
        return max(0.0, self.seconds - self.cpu_seconds)


class _Thread(threading.local):
    """What one thread is in at the moment: parts, and what calls inside the innermost one took."""

    def __init__(self) -> None:
        super().__init__()
        self.umbrellas: list[str] = []
        self.inner: list[list[float]] = []


class Meter:
    """Counts by part, while `wrapping`."""

    def __init__(self) -> None:
        self.parts: dict[str, Spent] = {}
        self.missing: list[str] = []
        """Targets that aren't there: the code has changed, and their time is counted as their caller's."""
        self._thread = _Thread()
        self._lock = threading.Lock()

    @contextmanager
    def wrapping(self, targets: Sequence[Target]) -> Iterator[None]:
        """Have the targets wrapped for the length of a block."""
        undo: list[tuple[Any, str, Any]] = []
        try:
            for target in targets:
                owner = _owner(target)
                name = target.name.rpartition(".")[2]
                if owner is None or name not in vars(owner):
                    self.missing.append(f"{target.module}.{target.name}")
                    continue
                original = vars(owner)[name]
                undo.append((owner, name, original))
                setattr(owner, name, self._wrapped(original, target))
            yield
        finally:
            for owner, name, original in reversed(undo):
                setattr(owner, name, original)

    def _wrapped(self, function: Callable[..., Any], target: Target) -> Callable[..., Any]:
        thread = self._thread

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            part = f"{thread.umbrellas[-1]}: {target.part}" if thread.umbrellas else target.part
            inner = [0.0, 0.0]
            thread.inner.append(inner)
            if target.umbrella:
                thread.umbrellas.append(target.part)
            begin, cpu_begin = time.perf_counter(), time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                cpu, seconds = time.thread_time() - cpu_begin, time.perf_counter() - begin
                if target.umbrella:
                    thread.umbrellas.pop()
                thread.inner.pop()
                if thread.inner:
                    thread.inner[-1][0] += cpu
                    thread.inner[-1][1] += seconds
                self._note(part, cpu - inner[0], seconds - inner[1])

        return timed

    def _note(self, part: str, cpu_seconds: float, seconds: float) -> None:
        with self._lock:
            spent = self.parts.setdefault(part, Spent())
            spent.calls += 1
            spent.cpu_seconds += cpu_seconds
            spent.seconds += seconds


def _owner(target: Target) -> Any:
    """Return what has the function as an attribute of its own, or None."""
    try:
        owner: Any = importlib.import_module(target.module)
    except ModuleNotFoundError:
        return None
    for part in target.name.split(".")[:-1]:
        owner = getattr(owner, part, None)
    return owner
