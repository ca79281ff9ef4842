"""The script that every crash test goes through, and how it is gone through."""

import json
import subprocess
from collections.abc import Callable, Sequence
from typing import Protocol

import pytest

from tests import records
from tests.crash import script, story, trial
from tests.integration import running


class GoThrough(Protocol):
    """A way through the script, of which the record is told if one is kept."""

    def __call__(
        self, daemon: running.Daemon, plans: Sequence[str], *, cause: str = "kill", moment: str = "", disk: str = "any"
    ) -> bool:
        """Go through it with plans of faults, and say whether the daemon was ended on the way.

        `cause` says how, `moment` when, if the plans don't, `disk` on which file system.
        """
        ...


@pytest.fixture(scope="session")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[script.Step]:
    """Give the script."""
    folder = tmp_path_factory.mktemp("image")
    raw, image = folder / "disk.raw", folder / "disk.qcow2"
    data = script.noise(script.SIZE)
    raw.write_bytes(data)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(image)], check=True)
    return story.story(image.read_bytes(), data)


@pytest.fixture
def go_through(steps: list[script.Step], record_property: Callable[[str, object], None]) -> GoThrough:
    """Give a way through the script."""

    def go(
        daemon: running.Daemon, plans: Sequence[str], *, cause: str = "kill", moment: str = "", disk: str = "any"
    ) -> bool:
        going = trial.Trial(daemon, plans)
        try:
            return going.go_through(steps)
        finally:
            told = {
                "cause": cause,
                "moment": moment or ", ".join(plans),
                "disk": disk,
                "deaths": going.deaths,
                "acknowledged": going.acknowledged,
                "methods": sorted(_methods(daemon)),
            }
            record_property(records.PROPERTY, told)

    return go


def _methods(daemon: running.Daemon) -> set[str]:
    """Return the methods that changed something, by the daemon's log."""
    found = set()
    for line in daemon.log.read_text().splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            if entry.get("event") == "call" and entry["code"] == "OK":
                found.add(entry["method"].rpartition("/")[2])
    return found
