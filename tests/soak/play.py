"""The soak as a whole: agents at work, torments, and rests at which all of it is compared with what was promised.

It goes in turns. In a stormy one the daemon is killed and started again and again; in a calm one it lives through, and
must not take more and more of the host. After each all contents are compared with what the agents were told; then the
daemon is stopped, every row and file looked at, and the stores are compared with one another by fsck.
"""

import contextlib
import dataclasses
import json
import pathlib
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

from snapd import clock as clocks
from snapd import config
from snapd.service.settings import Settings
from tests.crash import script
from tests.integration import running
from tests.soak import agent as agents
from tests.soak import resources, tormentor
from tests.soak import stage as stages
from tests.unit.service import checker

_CONFIG: Final = """
state_dir = "{state}"
run_dir = "{state}/run"
[pool]
low_watermark = "64MiB"
[archiver]
retry_initial = "1s"
retry_longest = "4s"
scrub_interval = "1h"
"""
_BETWEEN_STRIKES_S: Final = (0.2, 4.0)
_SAMPLES: Final = 4
"""Looks at what the daemon takes in a calm turn; the first one when it is warm."""


@dataclasses.dataclass
class Outcome:
    """What a soak came to."""

    seconds: float = 0.0
    turns: int = 0
    operations: dict[str, int] = dataclasses.field(default_factory=dict)
    torments: dict[str, int] = dataclasses.field(default_factory=dict)
    contents_compared: int = 0
    resources: list[dict[str, int]] = dataclasses.field(default_factory=list)
    """At the beginning and at the end of the calm turns."""


class Play:
    """One soak."""

    def __init__(self, place: pathlib.Path, *, clients: int, seed: int, own: bool) -> None:
        """Have a daemon keep everything in `place`; `own` says that its file system is nobody else's."""
        state = place / "state"
        configuration = place / "config.toml"
        configuration.write_text(_CONFIG.format(state=state))
        self._chance = random.Random(seed)
        self._settings = config.load(configuration).settings
        self._configuration = configuration
        self._daemon = running.Daemon(state, configuration)
        self._stage = stages.Stage(self._daemon, clients)
        self._agents = [agents.Agent(f"agent-{n}", self._chance.getrandbits(32), self._stage) for n in range(clients)]
        filler = place / "filler" if own else None
        self._tormentor = tormentor.Tormentor(
            self._stage, self._settings.archive_path, filler, self._chance.getrandbits(32)
        )
        self.outcome = Outcome()

    def run(self, seconds: float, turn_s: float) -> None:
        """Play for about so long, in stormy and calm turns of so long each. Raises AssertionError."""
        self._daemon.start()
        self._stage.raise_curtain()
        begin = clocks.monotonic_s()
        for agent in self._agents:
            agent.start()
        try:
            while clocks.monotonic_s() - begin < seconds:
                self._storm(turn_s)
                self._look_at_everything()
                self._calm(turn_s)
                self._look_at_everything()
                self.outcome.turns += 2
        except stages.Closed:
            # An agent failed; its own error says why.
            pass
        finally:
            self._stage.close()
            self._daemon.kill()
            for agent in self._agents:
                agent.join()
            self._sum_up(clocks.monotonic_s() - begin)
        for agent in self._agents:
            if agent.failure is not None:
                raise AssertionError(f"{agent.parent}, after {agent.story}") from agent.failure

    def _storm(self, seconds: float) -> None:
        end_s = clocks.monotonic_s() + seconds
        while clocks.monotonic_s() < end_s:
            self._stage.wait(self._chance.uniform(*_BETWEEN_STRIKES_S))
            self._tormentor.strike(gently=False)

    def _calm(self, seconds: float) -> None:
        samples: list[resources.Sample] = []
        for _ in range(_SAMPLES):
            end_s = clocks.monotonic_s() + seconds / _SAMPLES
            while clocks.monotonic_s() < end_s:
                self._stage.wait(self._chance.uniform(*_BETWEEN_STRIKES_S))
                self._tormentor.strike(gently=True)
            with self._stage.rest():
                samples.append(resources.sample(self._daemon.process.pid))
        resources.require_steady(samples)
        self.outcome.resources += [dataclasses.asdict(samples[0]), dataclasses.asdict(samples[-1])]

    def _settle(self) -> None:
        try:
            script.until(lambda: checker.is_settled(self._settings))
        except AssertionError as error:
            raise AssertionError(f"it doesn't come to rest: {_unsettled(self._settings)}") from error

    def _look_at_everything(self) -> None:
        with self._stage.rest():
            # What waits for the keeper's next round, or for an attempt later on, is begun by a start.
            self._restart()
            self._settle()
            with self._daemon.client() as client:
                for agent in self._agents:
                    agent.check(client)
                    self.outcome.contents_compared += len(agent.expected.contents)
            self._restart(self._check_files)

    def _restart(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        with self._stage.down():
            assert self._daemon.stop() == 0, self._daemon.log.read_text()[-10_000:]
            meanwhile()
            self._daemon.start()

    def _check_files(self) -> None:
        checker.check_at_rest(self._settings)
        self._fsck()

    def _fsck(self) -> None:
        command = [sys.executable, "-m", "snapd", "fsck", "--config", str(self._configuration), "--images"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def _sum_up(self, seconds: float) -> None:
        self.outcome.seconds = round(seconds, 1)
        for agent in self._agents:
            for what, count in agent.counts.items():
                self.outcome.operations[what] = self.outcome.operations.get(what, 0) + count
        self.outcome.torments = dict(self._tormentor.counts)


def _unsettled(settings: Settings) -> list[tuple[object, ...]]:
    """Return the rows that say that something is still under way."""
    with contextlib.closing(sqlite3.connect(f"file:{settings.catalog_path}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT kind, subject, payload FROM intents").fetchall()
        found += connection.execute("SELECT uid, parent, state FROM layers").fetchall()
        found += connection.execute(
            "SELECT environment_uid, id, state, archive_state, error, updated_us FROM snapshots"
        ).fetchall()
        return found


def record(outcome: Outcome, seed: int, failure: str | None, extra: dict[str, Any]) -> str:
    """Return what a soak came to as JSON, with what it found wrong."""
    document = {
        **extra,
        "seed": seed,
        **dataclasses.asdict(outcome),
        "failure": failure,
    }
    return json.dumps(document, indent=2) + "\n"
