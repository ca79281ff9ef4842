"""The machine that a simulated daemon believes to run on: threads, clocks and random numbers, all from a scheduler.

The product is not changed for it. Its modules call the standard library by qualified names, and for the length of a
run those names lead to the scheduler's instead: `threading`, `concurrent.futures` and `time` within the package, and
the source of randomness below `uuid` and `secrets`.
"""

import contextlib
import datetime
import functools
import importlib
import os
import pkgutil
import random
import sys
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from snapd import clock as clocks
from tests.simulation import scheduler as schedulers
from tests.simulation import threads

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)

_ROOMS = ("snapd.archive", "snapd.catalog", "snapd.copier", "snapd.pool", "snapd.qcow2", "snapd.service")
"""Packages of which a simulated daemon consists; modules beside them are named here."""
_SINGLE = ("snapd.clock", "snapd.pace")


class Clock:
    """A clock.Clock that shows the scheduler's time, until it is set to another one."""

    def __init__(self, scheduler: schedulers.Scheduler, *, may_be_set: bool) -> None:
        self._scheduler = scheduler
        self._may_be_set = may_be_set
        self._ahead = datetime.timedelta(0)
        self.was_set_forward = False

    def now(self) -> datetime.datetime:
        return START + self._ahead + datetime.timedelta(seconds=self._scheduler.now_s)

    def set(self, change: datetime.timedelta) -> None:
        """Set it forward by so much, or back."""
        assert self._may_be_set
        self._ahead += change
        self.was_set_forward |= change > datetime.timedelta(0)

    def wait(self, condition: Any, until: datetime.datetime | None) -> None:
        timeout_s = clocks.LONGEST_WAIT_S
        if until is not None:
            timeout_s = (until - self.now()).total_seconds()
            if timeout_s <= 0:
                return
        elif not isinstance(condition, threads.Condition):
            raise TypeError(condition)
        if self._may_be_set:
            condition.wait(min(timeout_s, clocks.LONGEST_WAIT_S))
        else:
            # Without a time to wait for there is news or nothing; looking again each minute would only cost.
            condition.wait(None if until is None else timeout_s)


@functools.cache
def _modules() -> tuple[types.ModuleType, ...]:
    for package in (importlib.import_module(name) for name in _ROOMS):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)

    return tuple(
        module
        for name, module in sorted(sys.modules.items())
        if name in _SINGLE or any(name.startswith(f"{room}.") for room in _ROOMS)
    )


def _names(scheduler: schedulers.Scheduler) -> dict[str, Any]:
    """Return what the standard library's names lead to, by the name that a module has for them."""
    future_names = types.SimpleNamespace(
        ThreadPoolExecutor=functools.partial(threads.Executor, scheduler),
        Future=threads.Future,
        Executor=threads.Executor,
        wait=threads.wait,
    )
    return {
        "threading": types.SimpleNamespace(
            Lock=functools.partial(threads.Lock, scheduler),
            RLock=functools.partial(threads.Lock, scheduler, reentrant=True),
            Condition=functools.partial(threads.Condition, scheduler),
            Event=functools.partial(threads.Event, scheduler),
            BoundedSemaphore=functools.partial(threads.Semaphore, scheduler),
            Thread=functools.partial(threads.Thread, scheduler),
            # Every thread of a run is a real one.
            local=sys.modules["threading"].local,
        ),
        "concurrent": types.SimpleNamespace(futures=future_names),
        "futures": future_names,
        "time": types.SimpleNamespace(monotonic=lambda: scheduler.now_s),
    }


@contextlib.contextmanager
def running(scheduler: schedulers.Scheduler, seed: int, *, may_be_set: bool = False) -> Iterator[Clock]:
    """Have the product run on a scheduler's machine for the length of a block, with a clock that may be set or not."""
    kept: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        kept.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    names = _names(scheduler)
    for module in _modules():
        for name, value in names.items():
            if isinstance(getattr(module, name, None), types.ModuleType):
                put(module, name, value)
    source = random.Random(seed)
    urandom: Callable[[int], bytes] = source.randbytes
    put(os, "urandom", urandom)
    put(random, "_urandom", urandom)
    state = random.getstate()
    random.seed(seed)
    try:
        assert uuid.uuid4().version == 4
        yield Clock(scheduler, may_be_set=may_be_set)
    finally:
        random.setstate(state)
        for owner, name, value in reversed(kept):
            setattr(owner, name, value)
