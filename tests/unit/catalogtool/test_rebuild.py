"""`snapd-storage rebuild-catalog` on the stores of a daemon at rest whose catalog is lost."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from snapd import lockfile, model
from snapd.__main__ import main
from snapd.catalog import copying
from tests.unit.service import checker
from tests.unit.service import world as worlds

DATA = bytes(range(256)) * 512


class Subject:
    """A daemon's stores, and the command on them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.world = worlds.World(folder)
        self.config = folder / "config.toml"
        self.backup = folder / "backup.sqlite3"
        self.config.write_text(f'state_dir = "{folder}"\n[archive]\nhost = "{self.world.settings.host}"\n')

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["rebuild-catalog", "--config", str(self.config), *arguments])

    def rebuilt(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        ended = self.run("--json", *arguments)
        assert ended.exit_code == code, ended.output
        document: dict[str, Any] = json.loads(ended.stdout)
        return document

    def back_up(self) -> None:
        copying.copy(self.world.settings.catalog_path, self.backup)

    def lose(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            path = self.world.settings.catalog_path
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    @property
    def from_backup(self) -> tuple[str, str]:
        return "--backup", str(self.backup)


@pytest.fixture
def subject(tmp_path: pathlib.Path) -> Iterator[Subject]:
    """Stores at rest: `v` stands on the rapid `r`, the archived `a` is older; `w` stands on the archived `b`."""
    subject = Subject(tmp_path)
    world = subject.world
    world.start()
    world.environment()
    world.volume("v")
    world.volume("w")
    world.write("w", 0, DATA)
    world.archived("b", "w")
    world.write("v", 0, DATA)
    world.archived("a", "v")
    world.write("v", len(DATA), DATA)
    world.snapshot("r", "v", rapid=True)
    world.until(lambda: checker.is_settled(world.settings))
    world.stop()
    yield subject
    world.stop()


def test_a_backup_of_the_last_moment_gives_all_of_it_back(subject: Subject) -> None:
    subject.back_up()
    subject.lose()
    told = subject.rebuilt(*subject.from_backup)
    assert (told["recovered"], told["lost"], told["left_alone"]) == ([], [], [])
    assert told["counts"]["volumes"] == 2
    assert told["counts"]["snapshots"] == 3
    world = subject.world
    world.start()
    assert world.get_volume("v").state is model.VolumeState.READY
    assert world.volume_bytes("v").startswith(DATA + DATA)
    assert world.snapshot_bytes("r").startswith(DATA + DATA)
    assert world.snapshot_bytes("a").startswith(DATA + bytes(10))
    assert not world.get_volume("v").recovered
    world.check()


def test_a_daemon_that_runs_is_left_alone(subject: Subject) -> None:
    lock = lockfile.acquire_state(subject.config.parent)
    try:
        assert subject.run("--replace").exit_code == 2
    finally:
        lock.close()
