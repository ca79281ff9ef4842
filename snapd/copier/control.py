"""What a long copy heeds, a wish to stop, and what it tells, its progress. Written by one side, read by the other."""

import dataclasses
import datetime
import threading
from collections.abc import Callable

from snapd import clock as clocks
from snapd.copier import rate


class Stopped(Exception):
    """The work was asked to stop. `parked` says that it is to be taken up again after a restart."""

    def __init__(self, *, parked: bool) -> None:
        super().__init__("parked" if parked else "cancelled")
        self.parked = parked


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work is, at one moment."""

    stage: str
    bytes_done: int
    bytes_total: int
    """0 while it isn't known."""
    bytes_per_second: int
    """Over the last seconds; 0 if nothing moves, or it is too early to tell."""

    @property
    def remaining(self) -> datetime.timedelta | None:
        """How long the stage will take at this rate; None if that can't be told."""
        if not self.bytes_total or not self.bytes_per_second:
            return None
        return datetime.timedelta(seconds=max(0, self.bytes_total - self.bytes_done) / self.bytes_per_second)


class Control:
    """The reins of one piece of work. Thread-safe."""

    def __init__(self, monotonic_s: Callable[[], float] = clocks.monotonic_s) -> None:
        """Measure rates by a clock that never jumps."""
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._stirred = threading.Condition()
        self._cancelled = False
        self._parked = False
        self._heeded: Callable[[], None] | None = None
        self._stage = ""
        self._bytes_done = 0
        self._bytes_total = 0
        self._rate = rate.Rate(monotonic_s)

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
        """Wait until a clock has reached a moment, or was set back. Raises Stopped as soon as somebody asks for it."""
        with self._stirred:
            self.check()
            span = clocks.Span(clock.now(), until)
            while not span.is_over(clock.now()):
                clock.wait(self._stirred, until)
                self.check()

    def begin(self, stage: str, bytes_total: int = 0) -> None:
        """Say what comes now, and how much of it."""
        self.check()
        with self._lock:
            self._stage = stage
            self._bytes_done = 0
            self._bytes_total = bytes_total
            self._rate = rate.Rate(self._monotonic_s)

    def go_on_to(self, stage: str) -> None:
        """Say what comes now of the same bytes: those that are done stay done."""
        self.check()
        with self._lock:
            self._stage = stage
            self._rate = rate.Rate(self._monotonic_s)

    def advance(self, count: int) -> None:
        """Say that this many more bytes are done."""
        with self._lock:
            self._bytes_done += count
            self._rate.add(count)

    def progress(self) -> Progress:
        """Return how far the work is."""
        with self._lock:
            return Progress(self._stage, self._bytes_done, self._bytes_total, self._rate.per_second())
