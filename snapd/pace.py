"""A pace: so many bytes per second, shared by everybody who takes from it, in the order in which they ask.

It knows time and nothing of what the bytes are. It doesn't wait itself: whoever takes brings a way to wait that can be
interrupted.
"""

import datetime
import threading
from collections.abc import Callable
from typing import Final

from snapd import clock as clocks

Wait = Callable[[clocks.Clock, datetime.datetime], None]
"""Returns when a clock has reached a moment, or raises when it is time to give up."""

_PIECE_S: Final = 0.5
"""What is granted at once at most, in seconds' worth."""
_CREDIT: Final = datetime.timedelta(seconds=0.5)
"""What may be made up for after less was taken than allowed. Both together are a second's worth: the largest burst."""
_LONGEST_QUEUE: Final = datetime.timedelta(minutes=2)
"""More than all that can wait at a time. If the next turn is further away than that, the clock was set back."""


class Pace:
    """A token bucket. Thread-safe."""

    def __init__(self, clock: clocks.Clock, bytes_per_second: int) -> None:
        """Grant that many bytes per second; 0 sets no limit."""
        self._clock = clock
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._next_turn = clock.now()

    @property
    def piece_bytes(self) -> int | None:
        """The bytes that are granted at once at most: work in no larger pieces has no larger bursts. None: no limit."""
        return max(1, int(self._rate * _PIECE_S)) if self._rate else None

    def take(self, count: int, wait: Wait) -> None:
        """Return when that many bytes may be moved. Raises what wait raises."""
        piece_bytes = self.piece_bytes
        while piece_bytes is not None and count > 0:
            taken = min(count, piece_bytes)
            wait(self._clock, self._turn(taken))
            count -= taken

    def _turn(self, count: int) -> datetime.datetime:
        """Return when it is the turn of the next count bytes, which are taken with that."""
        with self._lock:
            now = self._clock.now()
            turn = max(self._next_turn, now - _CREDIT)
            if turn - now > _LONGEST_QUEUE:
                turn = now
            self._next_turn = turn + datetime.timedelta(seconds=count / self._rate)
            return turn
