"""Environments of whose archived snapshots something was found to be damaged, or may be whole again.

Whoever meets damage says so here and goes on; the scrubber finds out whom it hits. A lost hint costs time: the next
scrub finds the same.
"""

import threading

from snapd import clock as clocks


class Suspects:
    """What the scrubber should look at. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._environments: set[str] = set()
        self._stopping = False

    def add(self, environment_uid: str) -> None:
        """Something may be damaged, or whole again."""
        with self._changed:
            self._environments.add(environment_uid)
            self._changed.notify_all()

    def stop(self) -> None:
        """Have every wait return at once, from now on."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def wait(self, clock: clocks.Clock, span: clocks.Span) -> bool:
        """Wait for something to look at, or for the end of a time; False when it is time to stop."""
        with self._changed:
            while not (self._stopping or self._environments or span.is_over(clock.now())):
                clock.wait(self._changed, span.until)
            return not self._stopping

    def take(self) -> set[str]:
        """Take what there is."""
        with self._changed:
            taken, self._environments = self._environments, set()
            return taken
