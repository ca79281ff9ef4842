"""Faults on demand: an observer of file operations that kills the process or fails a call at a chosen moment.

The daemon installs it when the environment variable SNAPD_STORAGE_FAULTS is set, which nothing but a test does.
Its value is a comma-separated list of `ACTION@WHERE[:N]`. ACTION is `kill` (SIGKILL, nothing is cleaned up), `stop`
(SIGSTOP, so that somebody can cut the power of the disks meanwhile) or the name of an errno such as `EIO`; WHERE is a
point's name or an operation's; N says at which occurrence (default: the first).
"""

import errno
import os
import signal
import threading

from snapd import fsops

VARIABLE = "SNAPD_STORAGE_FAULTS"

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Faults:
    """Counts operations and strikes when one comes round that was asked for."""

    def __init__(self, plan: str) -> None:
        """Read a plan. Raises ValueError if it can't be read."""
        self._lock = threading.Lock()
        self._pending: list[tuple[str, str]] = []
        self._countdown: list[int] = []
        for item in filter(None, plan.split(",")):
            action, _, where = item.partition("@")
            where, _, count = where.partition(":")
            if not where or not (action in _SIGNALS or hasattr(errno, action)):
                raise ValueError(f"{VARIABLE}: {item!r} is not ACTION@WHERE[:N]")
            self._pending.append((action, where))
            self._countdown.append(int(count or 1))

    def __call__(self, operation: fsops.Operation) -> None:
        """Observe one operation (see fsops.observe)."""
        name = operation.target if operation.name == "point" else operation.name
        with self._lock:
            struck = None
            for index, (action, where) in enumerate(self._pending):
                if where == name:
                    self._countdown[index] -= 1
                    if self._countdown[index] == 0:
                        struck = action
        if struck in _SIGNALS:
            os.kill(os.getpid(), _SIGNALS[struck])
        elif struck is not None:
            code = getattr(errno, struck)
            raise OSError(code, os.strerror(code))


def install() -> bool:
    """Install the faults that the environment asks for, and say whether it asked for any."""
    plan = os.environ.get(VARIABLE)
    if plan:
        fsops.observe(Faults(plan))
    return bool(plan)
