"""What a long copy heeds, a wish to stop, and what it tells, its progress. Written by one side, read by the other."""

import datetime
import threading
from collections.abc import Callable

from snapd import clock as clocks


class Stopped(Exception):
    """The work was asked to stop. `parked` says that it is to be taken up again after a restart."""

    def __init__(self, *, parked: bool) -> None:
        super().__init__("parked" if parked else "cancelled")
        self.parked = parked


class Control:
    """The reins of one piece of work. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stirred = threading.Condition()
        self._cancelled = False
        self._parked = False
        self._heeded: Callable[[], None] | None = None
        self.stage = ""
        self.bytes_done = 0
        self.bytes_total = 0

    def cancel(self) -> None:
        """Ask the work to stop for good."""
        with self._stirred:
            self._cancelled = True
            self._stirred.notify_all()

    def park(self) -> None:
        """Ask the work to stop for now."""
        with self._stirred:
            self._parked = True
            self._stirred.notify_all()

    def heed(self, condition: Callable[[], None]) -> None:
        """Have a condition looked at between any two pieces of work, which raises when it is time to give up."""
        self._heeded = condition

    def check(self) -> None:
        """Raise Stopped if somebody asked for it. Called between any two pieces of work."""
        if self._cancelled or self._parked:
            raise Stopped(parked=not self._cancelled)
        if self._heeded is not None:
            self._heeded()

    def wait(self, clock: clocks.Clock, until: datetime.datetime) -> None:
        """Wait until a clock has reached a moment. Raises Stopped as soon as somebody asks for it."""
        with self._stirred:
            self.check()
            while clock.now() < until:
                clock.wait(self._stirred, until)
                self.check()

    def begin(self, stage: str, bytes_total: int = 0) -> None:
        """Say what comes now, and how much of it."""
        self.check()
        with self._lock:
            self.stage = stage
            self.bytes_done = 0
            self.bytes_total = bytes_total

    def advance(self, count: int) -> None:
        """Say that this many more bytes are done."""
        with self._lock:
            self.bytes_done += count
