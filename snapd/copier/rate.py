"""How fast something goes at present: over the last seconds rather than since its beginning."""

import collections
from collections.abc import Callable
from typing import Final

from snapd import clock

WINDOW_S: Final = 10.0
"""What counts as present."""
_LEAST_S: Final = 1.0
"""Nothing is said of what has gone on for less."""
_BUCKET_S: Final = 0.25


class Rate:
    """A smoothed rate. Not thread-safe."""

    def __init__(self, monotonic_s: Callable[[], float] = clock.monotonic_s) -> None:
        """Begin now, by a clock that never jumps."""
        self._monotonic_s = monotonic_s
        self._began_s = monotonic_s()
        self._buckets: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, count: int) -> None:
        """Say that this many more were done."""
        now_s = self._monotonic_s()
        if self._buckets and now_s - self._buckets[-1][0] < _BUCKET_S:
            begun_s, before = self._buckets.pop()
            self._buckets.append((begun_s, before + count))
        else:
            self._buckets.append((now_s, count))
            self._forget(now_s)

    def per_second(self) -> int:
        """Return how many were done per second; 0 if none were, or it is too early to tell."""
        now_s = self._monotonic_s()
        self._forget(now_s)
        elapsed_s = min(now_s - self._began_s, WINDOW_S)
        if elapsed_s < _LEAST_S:
            return 0
        return int(sum(count for _, count in self._buckets) / elapsed_s)

    def _forget(self, now_s: float) -> None:
        while self._buckets and self._buckets[0][0] <= now_s - WINDOW_S:
            self._buckets.popleft()
