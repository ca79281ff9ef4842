"""Patience: how often and for how long something that broke is tried again.

It owns the pauses between attempts of streams and waits. Unary calls are retried by the channel itself.
"""

import random
import threading
from typing import Final

import grpc

from snapd import clock
from snapd.client import errors

DEFAULT_PATIENCE_S: Final = 60.0
"""How long nothing may move before a transfer or a wait gives up: enough for a restart of the daemon."""

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_BROKEN: Final = frozenset(
    (
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    )
)


class Patience:
    """Counts how long nothing has moved, and pauses longer each time."""

    def __init__(self, patience_s: float = DEFAULT_PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._never = threading.Event()
        self.moved()

    def moved(self) -> None:
        """Begin anew: something has gone on."""
        self._since_s = clock.monotonic_s()
        self._pause_s = _FIRST_PAUSE_S

    def pause(self, error: errors.ApiError) -> None:
        """Pause before the next attempt. Raises error if it isn't one that passes, or if patience is at its end."""
        if not passes(error) or clock.monotonic_s() - self._since_s >= self._patience_s:
            raise error
        pause_s = self._pause_s * random.uniform(0.5, 1.5)
        if error.retry_delay is not None:
            pause_s = max(pause_s, error.retry_delay.total_seconds())
        self._never.wait(min(pause_s, _LONGEST_PAUSE_S))
        self._pause_s *= 2


def passes(error: errors.ApiError) -> bool:
    """Whether a stream that ended so is worth another attempt: the daemon was away, or the transport broke."""
    return error.code == grpc.StatusCode.UNAVAILABLE or (error.from_transport and error.code in _BROKEN)
