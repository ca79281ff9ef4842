"""`snapd-storage rebuild-catalog` on the stores of a daemon at rest whose catalog is lost."""

import dataclasses
import datetime
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from snapd import errors, lockfile, model
from snapd.__main__ import main
from snapd.catalog import copying
from snapd.service.snapshots import SnapshotSpec
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


def test_the_archives_newest_backup_is_begun_with(subject: Subject) -> None:
    world = subject.world
    world.settings = dataclasses.replace(world.settings, catalog_backup_interval=datetime.timedelta(minutes=5))
    world.start()
    world.until(lambda: world.service.backups.state().newest == world.clock.now())
    world.snapshot("late", "v", rapid=True)
    world.write("v", 0, DATA[::-1])
    world.stop()
    subject.lose()
    told = subject.rebuilt(code=1)
    assert told["began_with"].startswith("backup-0000")
    assert [entry["name"] for entry in told["recovered"]] == ["environments/e/snapshots/late"]
    world.start()
    assert world.get_snapshot("late").recovered
    assert world.snapshot_bytes("late").startswith(DATA + DATA)
    assert world.volume_bytes("v").startswith(DATA[::-1] + DATA)
    world.until(lambda: checker.is_settled(world.settings))
    world.check()


def test_a_backup_that_is_damaged_is_told_of_and_the_one_before_it_taken(subject: Subject) -> None:
    world = subject.world
    world.settings = dataclasses.replace(world.settings, catalog_backup_interval=datetime.timedelta(minutes=5))
    for name in ("w1", "w2"):
        world.open()
        world.volume(name)
        world.stop()
        world.pass_time(minutes=6)
        world.start()
        world.until(lambda: world.service.backups.state().newest == world.clock.now())
        world.stop()
    subject.lose()
    manifests = sorted(world.settings.archive_path.glob("hosts/*/environments/catalog/manifests/backup-*"))
    manifests[-1].write_bytes(b"damaged")
    told = subject.rebuilt(code=1)
    assert len(told["passed_over"]) == 1
    assert told["passed_over"][0]["name"] in manifests[-1].name
    assert told["began_with"].startswith("backup-")
    assert [entry["name"] for entry in told["recovered"]] == ["environments/e/volumes/w2"]


def test_without_any_backup_headers_and_manifests_tell_what_there_was(subject: Subject) -> None:
    subject.lose()
    told = subject.rebuilt(code=1)
    assert told["began_with"] == "no backup"
    assert (told["lost"], told["left_alone"]) == ([], [])
    assert len(told["recovered"]) == 5
    world = subject.world
    world.start()
    assert world.volume_bytes("v").startswith(DATA + DATA)
    assert world.volume_bytes("w").startswith(DATA)
    for name, data in (("r", DATA + DATA), ("a", DATA + bytes(8)), ("b", DATA + bytes(8))):
        assert world.get_snapshot(name).state is model.SnapshotState.COMPLETED
        assert world.snapshot_bytes(name).startswith(data)
    world.until(lambda: checker.is_settled(world.settings))
    world.check()


def test_a_catalog_that_is_there_is_refused_and_set_aside_on_request_with_its_log(subject: Subject) -> None:
    subject.back_up()
    path = subject.world.settings.catalog_path
    before = path.read_bytes()
    log = path.with_name(f"{path.name}-wal")
    log.write_bytes(b"not the new one's")
    refused = subject.run()
    assert refused.exit_code == 2
    assert "--replace" in refused.output
    assert path.read_bytes() == before
    told = subject.rebuilt("--replace", *subject.from_backup)
    aside = path.with_name(told["set_aside"])
    assert aside.read_bytes() == before
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == b"not the new one's"
    assert not log.exists()
    assert {each.name for each in path.parent.glob(".catalog*")} == set()
    subject.world.open()


def test_twice_is_as_once(subject: Subject) -> None:
    subject.lose()
    first = subject.rebuilt(code=1)
    second = subject.rebuilt("--replace", code=1)
    assert {**second, "set_aside": ""} == first


def test_a_dry_run_only_tells(subject: Subject) -> None:
    subject.lose()
    before = sorted(subject.config.parent.rglob("*"))
    told = subject.rebuilt("--dry-run", code=1)
    assert told["written"] is False
    assert len(told["recovered"]) == 5
    assert set(subject.config.parent.rglob("*")) - set(before) <= {subject.config.parent / "lock"}
    assert not subject.world.settings.catalog_path.exists()


def test_an_archive_that_does_not_answer_decides_nothing_unless_it_is_left_out(subject: Subject) -> None:
    subject.back_up()
    subject.lose()
    archive = subject.world.settings.archive_path
    archive.rename(archive.with_name("elsewhere"))
    archive.mkdir()
    refused = subject.run(*subject.from_backup)
    assert refused.exit_code == 2
    assert "--no-archive" in refused.output
    assert not subject.world.settings.catalog_path.exists()
    told = subject.rebuilt("--no-archive", *subject.from_backup)
    assert (told["recovered"], told["lost"]) == ([], [])
    archive.rmdir()
    archive.with_name("elsewhere").rename(archive)
    subject.world.start()
    assert subject.world.snapshot_bytes("a").startswith(DATA)
    subject.world.check()


def test_a_pool_that_is_not_there_is_refused_unless_it_is_lost(subject: Subject) -> None:
    subject.back_up()
    subject.lose()
    shutil.rmtree(subject.world.settings.pool_path)
    assert subject.run(*subject.from_backup).exit_code == 2
    told = subject.rebuilt("--pool-lost", *subject.from_backup, code=1)
    assert [entry["name"] for entry in told["lost"]] == [
        "environments/e/snapshots/r",
        "environments/e/volumes/v",
        "environments/e/volumes/w",
    ]
    world = subject.world
    world.start()
    assert world.get_volume("v").state is model.VolumeState.FAILED
    assert world.get_snapshot("r").health is model.HealthState.DAMAGED
    with pytest.raises(errors.SnapdError):
        world.snapshot_bytes("r")
    world.clone("again", "a")
    assert world.volume_bytes("again").startswith(DATA)
    for name in ("v", "w", "again"):
        world.delete_volume(name)
    for name in ("r", "a", "b"):
        world.delete_snapshot(name)
    world.check()
    assert not [path for path in world.settings.pool_path.rglob("*") if path.is_file()]


def test_the_catalog_of_another_host_is_refused(subject: Subject) -> None:
    subject.lose()
    subject.rebuilt(code=1)
    subject.back_up()
    subject.config.write_text(subject.config.read_text().replace(subject.world.settings.host, "host-2"))
    refused = subject.run("--replace", *subject.from_backup)
    assert refused.exit_code == 2
    assert "host-1" in refused.output


def test_numbers_go_on_behind_all_that_were_given_out(subject: Subject) -> None:
    (before,) = subject.world.rows("SELECT max(revision) AS revision FROM events")
    subject.back_up()
    subject.lose()
    subject.rebuilt(*subject.from_backup)
    (after,) = subject.world.rows("SELECT min(revision) AS revision FROM volumes")
    assert after["revision"] > before["revision"] + (1 << 20)
    world = subject.world
    world.open()
    taken = world.snapshot("next", "v", rapid=True)
    assert taken.revision > after["revision"]


def test_operations_that_had_not_ended_end_with_an_error(subject: Subject) -> None:
    world = subject.world
    world.open()
    operation = world.service.snapshots.create(
        worlds.request("CreateSnapshot"), "e", "regular", "v", SnapshotSpec(False, "", {}, None)
    )[1]
    world.stop()
    subject.back_up()
    subject.lose()
    subject.rebuilt(*subject.from_backup)
    world.open()
    ended = world.service.operations.get("e", operation.id)
    assert ended.done
    assert ended.error is not None
    assert ended.error.reason == "CATALOG_REBUILT"
    assert world.get_snapshot("regular").state is model.SnapshotState.IN_PROGRESS


def test_a_failed_snapshot_that_is_lost_can_not_be_made_to_look_whole(subject: Subject) -> None:
    subject.back_up()
    subject.lose()
    shutil.rmtree(subject.world.settings.pool_path)
    subject.rebuilt("--pool-lost", *subject.from_backup, code=1)
    world = subject.world
    world.start()
    _, operation = world.service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", "r", "")
    assert world.ended(operation).error is not None
    assert world.get_snapshot("r").state is model.SnapshotState.FAILED


def test_what_was_done_is_told_in_sentences(subject: Subject) -> None:
    subject.lose()
    stray = subject.world.settings.pool_path / "ab" / "letter"
    stray.write_bytes(b"whose?")
    told = subject.run()
    assert told.exit_code == 1
    assert "Began with no backup. The archive was asked." in told.output
    assert "1 environments, 2 volumes, 3 snapshots (2 archived)" in told.output
    assert "environments/e/volumes/v: it isn't in the backup" in told.output
    assert "ab/letter: nothing tells what it is" in told.output
    assert stray.read_bytes() == b"whose?"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_stores_are_left_alone(subject: Subject) -> None:
    subject.lose()
    os.chown(subject.config.parent, 1, -1)
    refused = subject.run()
    assert refused.exit_code == 2
    assert "sudo -u" in refused.output
    assert not subject.world.settings.catalog_path.exists()
