"""The power of the disk is cut at named points and at single system calls, on each file system that people use.

The daemon is stopped there, its file system is cut off from its device, and what the device holds is all that the next
start finds: what was written and not synced is lost, unless the kernel had written it of its own accord.
"""

import contextlib
import os
import pathlib
import signal
import sys
import tempfile
import threading
from typing import Final

import pytest

from snapd import units
from tests import filesystems
from tests.crash import test_kills, trial
from tests.crash.conftest import GoThrough
from tests.integration import running

KINDS: Final = ("ext4", "xfs", "btrfs")
SAMPLE: Final = (
    ("ext4", "stop@archive.before-manifest"),
    ("ext4", "stop@capture.committed"),
    ("xfs", "stop@fold.relinked"),
    ("xfs", "stop@rename:9"),
    ("btrfs", "stop@restore.before_publish"),
)

_SIZE: Final = 3 * units.GIB
"""So much that nothing is refused for want of room; the file that holds it is sparse."""


class PoweredDaemon(running.Daemon):
    """A daemon on a file system of its own, the power of which is cut as soon as the daemon stops itself."""

    def __init__(self, folder: pathlib.Path, kind: str) -> None:
        self.disk = filesystems.FileSystem(folder, kind, _SIZE)
        state_dir = self.disk.place / "state"
        super().__init__(state_dir, trial.configuration(folder, state_dir))
        self.log = folder / "daemon.log"
        self.cuts = 0
        self._guard: threading.Thread | None = None

    def launch(self, **environment: str) -> None:
        if self._guard is not None:
            self._guard.join()
        self.disk.power_up()
        super().launch(**environment)
        self._guard = threading.Thread(target=self._watch, args=(self.process.pid,))
        self._guard.start()

    def _watch(self, pid: int) -> None:
        # Its end may have been noticed by whoever waits for it: then there is no such child any more.
        with contextlib.suppress(ChildProcessError):
            changed = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if changed is not None and changed.si_code == os.CLD_STOPPED:
                self.disk.lose_power()
                self.cuts += 1
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End the daemon and remove the file system."""
        self.kill()
        if self._guard is not None:
            self._guard.join()
        self.disk.close()


def _cut(kind: str, plans: list[str], go_through: GoThrough) -> int:
    """Go through the script with the power cut where plans say, and return how often it was."""
    problem = filesystems.why_not(kind)
    if problem:
        pytest.skip(problem)
    with tempfile.TemporaryDirectory(prefix="snapd-") as folder:
        daemon = PoweredDaemon(pathlib.Path(folder), kind)
        with contextlib.closing(daemon):
            try:
                struck = go_through(daemon, plans, cause="power cut", disk=kind)
            except BaseException:
                sys.stderr.write(daemon.log.read_text())
                raise
        assert struck == (daemon.cuts > 0)
        return daemon.cuts


@pytest.mark.parametrize(("kind", "plan"), SAMPLE)
def test_a_power_cut_loses_nothing_that_was_acknowledged(kind: str, plan: str, go_through: GoThrough) -> None:
    assert _cut(kind, [plan], go_through) == 1, f"{plan} was never passed"


@pytest.mark.torture
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", test_kills.POINTS)
def test_a_power_cut_at_any_point_loses_nothing(kind: str, point: str, go_through: GoThrough) -> None:
    assert _cut(kind, [f"stop@{point}"], go_through) == 1, f"{point} was never passed"


@pytest.mark.torture
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", test_kills.POINTS)
def test_a_second_power_cut_during_recovery_loses_nothing(kind: str, point: str, go_through: GoThrough) -> None:
    assert _cut(kind, [f"stop@{point}"] * 2, go_through) >= 1


@pytest.mark.torture
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("occurrence", [1, 2, 3, 5, 8, 13, 21, 34, 55])
@pytest.mark.parametrize("call", ["fsync", "fdatasync", "rename", "syncdir", "unlink", "create", "pwrite", "link"])
def test_a_power_cut_before_any_call_loses_nothing(
    kind: str, call: str, occurrence: int, go_through: GoThrough
) -> None:
    _cut(kind, [f"stop@{call}:{occurrence}"], go_through)
