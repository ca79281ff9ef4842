"""Hints for the keeper: layers and environments that lost a use. A lost hint costs time and nothing else."""

import datetime
import threading

from snapd import clock as clocks


class Hints:
    """What the keeper should look at. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._layers: set[str] = set()
        self._postponed_layers: set[str] = set()
        self._postponed_environments: set[str] = set()
        self._environments: set[str] = set()
        self._stopping = False
        self._nudged = False

    def layer(self, uid: str | None) -> None:
        """A layer lost a use, or gained a frozen child: maybe it can be folded. Called after the commit."""
        if uid is not None:
            with self._changed:
                self._layers.add(uid)
                self._changed.notify_all()

    def postpone(self, layer: str | None = None, environment: str | None = None) -> None:
        """A layer could not be folded, or an environment's packs not collected, since somebody reads them."""
        with self._changed:
            self._postponed_layers |= set() if layer is None else {layer}
            self._postponed_environments |= set() if environment is None else {environment}

    def unpinned(self) -> None:
        """Somebody ceased to read: what was postponed may be tried again."""
        with self._changed:
            if self._postponed_layers or self._postponed_environments:
                self._layers |= self._postponed_layers
                self._environments |= self._postponed_environments
                self._postponed_layers.clear()
                self._postponed_environments.clear()
                self._changed.notify_all()

    def environment(self, uid: str) -> None:
        """An environment lost a manifest, or is gone: maybe it has packs that nothing needs."""
        with self._changed:
            self._environments.add(uid)
            self._changed.notify_all()

    def stop(self) -> None:
        """Have every wait return at once, from now on."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def nudge(self) -> None:
        """Have whoever waits look up, though there is no hint."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def rest(self, clock: clocks.Clock, until: datetime.datetime | None) -> bool:
        """Wait for a moment, or for a nudge, whatever hints there are; False when it is time to stop.

        May return early, so that the caller sees whether it is still the moment to wait for.
        """
        with self._changed:
            if not (self._stopping or self._nudged):
                clock.wait(self._changed, until)
            self._nudged = False
            return not self._stopping

    def wait(self, clock: clocks.Clock, span: clocks.Span) -> bool:
        """Wait for hints, for the end of a time or for a nudge; False when it is time to stop."""
        with self._changed:
            while not (self._stopping or self._nudged or self._any() or span.is_over(clock.now())):
                clock.wait(self._changed, span.until)
            self._nudged = False
            return not self._stopping

    def _any(self) -> bool:
        return bool(self._layers or self._environments)

    def take(self) -> tuple[set[str], set[str]]:
        """Take the layers and the environments that there are hints for."""
        with self._changed:
            taken = self._layers, self._environments
            self._layers, self._environments = set(), set()
            return taken

    def put_back(self, layers: set[str], environments: set[str]) -> None:
        """Have what was taken and not looked at wait for the next look."""
        with self._changed:
            self._layers |= layers
            self._environments |= environments
