"""The daemon is killed as it enters single system calls, SQLite's among them: whatever it asks of the kernel, and when.

The points and calls of `test_kills` lie before what the daemon itself does to files; these lie before what anything in
the process does.
"""

import pathlib
import shutil
import tempfile
from typing import Final

import pytest

from tests.crash import trial
from tests.crash.conftest import GoThrough
from tests.integration import running

CALLS: Final = {
    "write": "/^(write|writev|pwrite64|pwritev|pwritev2)$",
    "sync": "/^(fsync|fdatasync|sync_file_range)$",
    "name": "/^(rename|renameat|renameat2|link|linkat)$",
    "unlink": "/^(unlink|unlinkat|rmdir)$",
    "create": "/^(mkdir|mkdirat|open|openat)$",
    "size": "/^(ftruncate|fallocate)$",
    "copy": "/^(copy_file_range|sendfile)$",
    "mode": "/^(chmod|fchmod|fchmodat|fchmodat2)$",
    "lock": "/^(fcntl|flock)$",
    "map": "/^(mmap|munmap|mremap)$",
}
"""Kinds of calls, as patterns of their names: they aren't the same on all machines."""
SAMPLE: Final = (("sync", 7), ("write", 60), ("name", 5), ("unlink", 3))


class TracedDaemon(running.Daemon):
    """A daemon that the kernel kills as a thread of it enters the n-th call of a kind; once."""

    def __init__(self, folder: pathlib.Path, calls: str, occurrence: int) -> None:
        state_dir = folder / "state"
        super().__init__(state_dir, trial.configuration(folder, state_dir))
        # The tracer is the grandchild, so that signals and the exit status are the daemon's own.
        self._tracer = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null"]
        self._tracer += ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=SIGKILL:when={occurrence}"]

    def command(self) -> list[str]:
        tracer, self._tracer = self._tracer, []
        return [*tracer, *super().command()]


def _killed(kind: str, occurrence: int, go_through: GoThrough) -> bool:
    """Go through the script with a kill on the way, and say whether it struck."""
    if shutil.which("strace") is None:
        pytest.skip("strace is missing")
    with tempfile.TemporaryDirectory(prefix="snapd-") as folder:
        daemon = TracedDaemon(pathlib.Path(folder), CALLS[kind], occurrence)
        try:
            return go_through(daemon, [""], moment=f"system call {kind}:{occurrence}")
        finally:
            daemon.kill()


@pytest.mark.parametrize(("kind", "occurrence"), SAMPLE)
def test_a_kill_at_a_system_call_loses_nothing(kind: str, occurrence: int, go_through: GoThrough) -> None:
    assert _killed(kind, occurrence, go_through), f"no thread came to call {occurrence} of this kind"


@pytest.mark.torture
@pytest.mark.parametrize("occurrence", [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610])
@pytest.mark.parametrize("kind", CALLS)
def test_a_kill_at_any_system_call_loses_nothing(kind: str, occurrence: int, go_through: GoThrough) -> None:
    # Some kinds are called less often than that; then nothing is killed, and everything has to be right all the same.
    _killed(kind, occurrence, go_through)
