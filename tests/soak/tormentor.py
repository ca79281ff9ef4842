"""What happens to a daemon in the course of its life: it is killed and stopped, frozen, and robbed of its stores."""

import os
import pathlib
import random
import signal
from collections.abc import Callable
from typing import Final

import grpc

from snapd import faults, units
from tests.soak import stage as stages

_POINTS: Final = ("capture.before_commit", "archive.before-manifest", "fold.copied", "archive_run.committed")


class Tormentor:
    """Torments one daemon. All that it does ends with a daemon that serves and stores that are there."""

    def __init__(self, stage: stages.Stage, archive: pathlib.Path, filler: pathlib.Path | None, seed: int) -> None:
        """Hide the archive's folder now and then, and fill the file system by a file, if it is the daemon's alone."""
        self.counts: dict[str, int] = {}
        """How often it did what."""
        self._stage = stage
        self._archive = archive
        self._filler = filler
        self._random = random.Random(seed)

    def strike(self, *, gently: bool) -> None:
        """Do something; gently, the daemon lives on. Raises stages.Closed."""
        acts: list[Callable[[], None]] = [self.hide_archive, self.freeze]
        if self._filler is not None:
            acts.append(self.fill_up)
        if not gently:
            acts += [self.kill, self.kill, self.kill_at_point, self.stop]
        act = self._random.choice(acts)
        self.counts[act.__name__] = self.counts.get(act.__name__, 0) + 1
        act()

    def kill(self) -> None:
        """Kill it, and start it again."""
        with self._stage.down():
            self._stage.daemon.kill()
            self._stage.daemon.start()

    def kill_at_point(self) -> None:
        """Start it so that it kills itself at a point, wait a while for that, and start it again."""
        daemon = self._stage.daemon
        plan = f"kill@{self._random.choice(_POINTS)}:{self._random.randint(1, 4)}"
        with self._stage.down():
            daemon.kill()
            try:
                daemon.start(**{faults.VARIABLE: plan})
            except (AssertionError, BlockingIOError, grpc.RpcError):
                # It came to the point before it served.
                daemon.kill()
                daemon.start()
                return
        self._stage.wait(self._random.uniform(0.5, 3))
        with self._stage.down():
            daemon.kill()
            daemon.start()

    def stop(self) -> None:
        """Stop it in order, and start it again."""
        with self._stage.down():
            status = self._stage.daemon.stop()
            assert status == 0, f"the daemon ended with {status}"
            self._stage.daemon.start()

    def freeze(self) -> None:
        """Have it stand still for a while."""
        self._stage.daemon.signal(signal.SIGSTOP)
        try:
            self._stage.wait(self._random.uniform(0.1, 2))
        finally:
            self._stage.daemon.signal(signal.SIGCONT)

    def hide_archive(self) -> None:
        """Take its archive away for a while."""
        hidden = self._archive.with_name("hidden")
        self._archive.rename(hidden)
        try:
            self._stage.wait(self._random.uniform(0.1, 3))
        finally:
            hidden.rename(self._archive)

    def fill_up(self) -> None:
        """Leave next to no room to it, or less than its watermark asks for, for a while."""
        assert self._filler is not None
        status = os.statvfs(self._filler.parent)
        left = self._random.choice((units.MIB, 32 * units.MIB))
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - left))
        try:
            self._stage.wait(self._random.uniform(0.1, 2))
        finally:
            self._filler.unlink()
