"""File operations that fail, or hold whoever makes them, when a test wants it."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from snapd import fsops

PATIENCE_S = 60.0
"""Far more than anything here takes, on a slow machine too."""

Observer = Callable[[fsops.Operation], None]


def error(code: int) -> OSError:
    """Return what a system call raises."""
    return OSError(code, os.strerror(code))


def fail(code: int, *names: str, under: str = "") -> Observer:
    """Fail every operation with one of the names on a path that holds `under`."""

    def strike(operation: fsops.Operation) -> None:
        if operation.name in names and under in operation.target:
            raise error(code)

    return strike


def fail_at_point(code: int, point: str) -> Observer:
    """Fail at a point, once."""
    struck: list[fsops.Operation] = []

    def strike(operation: fsops.Operation) -> None:
        if operation.name == "point" and operation.target == point and not struck:
            struck.append(operation)
            raise error(code)

    return strike


class Held:
    """Holds whoever passes a point until it is told to go on."""

    def __init__(self, point: str) -> None:
        self._point = point
        self._reached = threading.Event()
        self._go_on = threading.Event()

    def __call__(self, operation: fsops.Operation) -> None:
        if operation.target == self._point:
            self._reached.set()
            assert self._go_on.wait(PATIENCE_S)

    def reach(self) -> None:
        """Wait until somebody is held."""
        assert self._reached.wait(PATIENCE_S)

    def go_on(self) -> None:
        """Let everybody pass, from now on."""
        self._go_on.set()


@contextlib.contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Have file operations announced to an observer for the length of a block."""
    fsops.observe(observer)
    try:
        yield
    finally:
        fsops.observe(None)
