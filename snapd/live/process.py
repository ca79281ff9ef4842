"""A process that is told from every other one, however often its number is used again, and however it was started.

A process is named by the boot of the kernel, its pid and the moment of its start together. It is held by a pidfd, which
leads to that very process or to nothing: a signal can't reach another one that was given the same pid.
"""

import dataclasses
import os
import pathlib
import select
import signal
from contextlib import suppress

_STATE_FIELD = 0
_START_FIELD = 19
"""Indexes of the fields 3 and 22 of proc(5)'s stat, counted behind the name in parentheses."""


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What names one process for all time."""

    boot: str
    """Boot id of the kernel."""
    pid: int
    start_ticks: int
    """When it was started, in the kernel's clock ticks since the boot."""


class Process:
    """A process that runs, or has run. It need not be a child of ours."""

    def __init__(self, identity: Identity, fd: int) -> None:
        self.identity = identity
        self._fd = fd

    def fileno(self) -> int:
        """Return the pidfd, which can be read from once it has ended."""
        return self._fd

    def is_alive(self) -> bool:
        """Say whether it has not ended."""
        return not self.wait(0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended, and say whether it has."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            return False
        with suppress(ChildProcessError):  # it is init's, and not ours, if another process of ours has started it
            os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        return True

    def is_stopped(self) -> bool:
        """Say whether it was halted by a signal or a debugger: it will answer nothing until it goes on."""
        fields = _stat(self.identity.pid)
        return self.is_alive() and fields is not None and fields[_STATE_FIELD] in ("T", "t")

    def terminate(self) -> None:
        """Ask it to end, as a service manager would; it closes its files in good order."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a fault would."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def detach(self) -> int:
        """Give away the pidfd: it is the caller's to close, and this object is of no use any more."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Let go of it; it runs on. Nothing but its identity can be asked afterwards."""
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1


def boot_id() -> str:
    """Return what the kernel calls this boot."""
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def of_pid(pid: int) -> Process | None:
    """Return the process that has a pid now, or None if none has."""
    # The descriptor comes first: what is read afterwards is then that process's, or nobody's.
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError, ValueError, OSError):
        return None
    fields = _stat(pid)
    found = None if fields is None else Process(Identity(boot_id(), pid, int(fields[_START_FIELD])), fd)
    if found is None or not found.is_alive():
        os.close(fd)
        return None
    return found


def find(identity: Identity) -> Process | None:
    """Return the very process of that name, or None if it has ended, whoever has its pid now."""
    found = of_pid(identity.pid) if identity.boot == boot_id() else None
    if found is not None and found.identity != identity:
        found.close()
        return None
    return found


def _stat(pid: int) -> list[str] | None:
    """Return the fields of a process's stat from the state on, or None if there is none."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name of a program may hold parentheses and blanks; the last one closes it.
    return text.rpartition(")")[2].split()
