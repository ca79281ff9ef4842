"""Where agents and tormentor meet: the daemon, whether it is up, and when everybody has to rest.

An agent asks to go on between any two things that it does, so that at a rest nothing is under way. Nobody sleeps:
everybody waits for something.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration import running

_LOOK_AGAIN_S = 0.05


class Closed(Exception):
    """It is over."""


class Stage:
    """The daemon and its callers. Thread-safe."""

    def __init__(self, daemon: running.Daemon, agents: int) -> None:
        """Wait for so many agents at each rest."""
        self.daemon = daemon
        self._changed = threading.Condition()
        self._agents = agents
        self._resting = 0
        self._rest = False
        self._up = False
        self._closed = False

    # --- for agents ---------------------------------------------------------------------------------------------------

    def goes_on(self) -> bool:
        """Rest if it is time to, and say whether there is more to do."""
        with self._changed:
            if self._rest:
                self._resting += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._rest or self._closed)
                self._resting -= 1
                self._changed.notify_all()
            return not self._closed

    def wait_for_daemon(self) -> None:
        """Wait until the daemon serves. Raises Closed."""
        with self._changed:
            # It may also end by itself: nobody tells of that, so it is looked at.
            while not (self._closed or (self._up and self.daemon.process.poll() is None)):
                self._changed.wait(_LOOK_AGAIN_S)
            if self._closed:
                raise Closed

    @contextmanager
    def client(self) -> Iterator[running.Client]:
        """Connect."""
        with self.daemon.client() as client:
            yield client

    # --- for who directs it -------------------------------------------------------------------------------------------

    @contextmanager
    def down(self) -> Iterator[None]:
        """Have agents wait that find the daemon away, for the length of a block at the end of which it serves again."""
        with self._changed:
            self._up = False
        yield
        self.raise_curtain()

    def raise_curtain(self) -> None:
        """The daemon serves."""
        with self._changed:
            self._up = True
            self._changed.notify_all()

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Have all agents rest for the length of a block. Raises Closed if one of them failed."""
        with self._changed:
            self._rest = True
            self._changed.wait_for(lambda: self._resting == self._agents or self._closed)
            if self._closed:
                raise Closed
        try:
            yield
        finally:
            with self._changed:
                self._rest = False
                self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Let the agents work for so long. Raises Closed if one of them failed."""
        with self._changed:
            if self._changed.wait_for(lambda: self._closed, seconds):
                raise Closed

    def close(self) -> None:
        """Have everybody end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
