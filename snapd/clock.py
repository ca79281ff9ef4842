"""Time as something that is passed in, so that a day of retention takes a test no time at all.

The wall clock is what people read and what a date means, and it can jump. Who waits for a moment waits for the end of a
`Span`, which is over too when the clock shows less than when it began.
"""

import dataclasses
import datetime
import threading
import time
from typing import Protocol

LONGEST_WAIT_S = 60.0
"""A wait is cut here and the wall clock is looked at again, since it can jump."""


class Clock(Protocol):
    """What the daemon may ask of time."""

    def now(self) -> datetime.datetime:
        """Return the wall-clock time, in UTC and aware of it."""
        ...

    def wait(self, condition: threading.Condition, until: datetime.datetime | None) -> None:
        """Wait, with the condition held, until it is notified or the wall clock reaches `until`.

        May return early; callers look again at what they were waiting for.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A time to wait for."""

    since: datetime.datetime
    until: datetime.datetime | None
    """None: until somebody ends it."""

    def is_over(self, now: datetime.datetime) -> bool:
        """Say whether it has passed, or the clock was set back to before it began: nobody waits for that time again."""
        return now < self.since or (self.until is not None and now >= self.until)


def span(clock: Clock, length: datetime.timedelta) -> Span:
    """Return a time that begins now."""
    now = clock.now()
    return Span(now, now + length)


class SystemClock:
    """The host's clock."""

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    def wait(self, condition: threading.Condition, until: datetime.datetime | None) -> None:
        timeout_s = LONGEST_WAIT_S
        if until is not None:
            timeout_s = min(timeout_s, (until - self.now()).total_seconds())
        if timeout_s > 0:
            condition.wait(timeout_s)


class ManualClock:
    """A clock that stands still until it is advanced."""

    def __init__(self, start: datetime.datetime) -> None:
        self._now = start
        self._lock = threading.Lock()
        self._waiting: set[threading.Condition] = set()

    def now(self) -> datetime.datetime:
        with self._lock:
            return self._now

    def wait(self, condition: threading.Condition, until: datetime.datetime | None) -> None:
        with self._lock:
            if until is not None and self._now >= until:
                return
            self._waiting.add(condition)
        # Advancing takes the condition before it notifies, so nothing is missed between here and there.
        condition.wait(LONGEST_WAIT_S)

    def advance(self, delta: datetime.timedelta) -> None:
        """Move on by delta and wake everybody who waits."""
        with self._lock:
            self._now += delta
            waiting, self._waiting = self._waiting, set()
        for condition in waiting:
            with condition:
                condition.notify_all()


def monotonic_s() -> float:
    """Return seconds of a clock that never jumps, for rates and time-outs."""
    return time.monotonic()
