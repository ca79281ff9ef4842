"""`snapd-storage fsck` on the stores of a daemon at rest: it tells what is wrong, and mends what it may."""

import errno
import json
import os
import pathlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from click.testing import CliRunner, Result

from snapd import clock as clocks
from snapd import lockfile, model
from snapd.__main__ import main
from snapd.catalog import migrations
from tests.unit.service import checker, faults
from tests.unit.service import world as worlds

DATA = bytes(range(256)) * 512


class Subject:
    """A daemon's stores, and the command on them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.world = worlds.World(folder)
        self.config = folder / "config.toml"
        self.config.write_text(f'state_dir = "{folder}"\n[archive]\nhost = "{self.world.settings.host}"\n')

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["fsck", "--config", str(self.config), *arguments])

    def found(self, *arguments: str, code: int = 4) -> list[dict[str, Any]]:
        ended = self.run("--json", *arguments)
        assert ended.exit_code == code, ended.output
        document = json.loads(ended.stdout)
        assert document["not_compared"] == ""
        found: list[dict[str, Any]] = document["findings"]
        return found

    def execute(self, sql: str, *values: str) -> None:
        with closing(sqlite3.connect(self.world.settings.catalog_path)) as connection:
            connection.execute(sql, values)
            connection.commit()

    def layer_of(self, snapshot_id: str) -> str:
        (row,) = self.world.rows(
            "SELECT p.layer FROM snapshots s JOIN points p ON p.uid = s.point WHERE s.id = ?", snapshot_id
        )
        return str(row["layer"])

    def remove_manifest(self, snapshot_id: str) -> None:
        (row,) = self.world.rows("SELECT uid FROM snapshots WHERE id = ?", snapshot_id)
        (path,) = (path for path in self.world.settings.archive_path.rglob("*") if row["uid"] in path.name)
        path.unlink()


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


def test_stores_at_rest_agree(subject: Subject) -> None:
    before = checker.fingerprint(subject.world.settings)
    ended = subject.run("--images")
    assert (ended.exit_code, ended.output) == (0, "Catalog, pool and archive agree.\n")
    assert subject.found("--repair", "--images", code=0) == []
    assert checker.fingerprint(subject.world.settings) == before


def test_a_daemon_that_runs_is_left_alone(subject: Subject) -> None:
    lock = lockfile.acquire_state(subject.config.parent)
    try:
        ended = subject.run("--repair")
    finally:
        lock.close()
    assert ended.exit_code == 8
    assert str(os.getpid()) in ended.output


def test_a_file_that_nobody_explains_is_told_and_left_alone(subject: Subject) -> None:
    stray = subject.world.settings.pool_path / "ab" / "letter.qcow2"
    stray.write_bytes(b"whose?")
    (found,) = subject.found("--repair")
    assert (found["kind"], found["subject"], found["mended"]) == ("FILE_UNEXPLAINED", "ab/letter.qcow2", "")
    assert stray.read_bytes() == b"whose?"


def test_a_frozen_layer_that_could_be_written_is_made_read_only(subject: Subject) -> None:
    path = subject.world.layer_path(subject.layer_of("r"))
    path.chmod(0o640)
    (found,) = subject.found()
    assert found["kind"] == "LAYER_WRITABLE"
    subject.found("--repair", code=1)
    assert path.stat().st_mode & 0o777 == 0o440
    assert subject.found(code=0) == []


def test_a_frozen_layer_is_made_read_only_without_leaks(subject: Subject) -> None:
    path = subject.world.layer_path(subject.layer_of("r"))
    worlds.leak(path)
    (mended,) = subject.found("--repair", code=1)
    assert (mended["kind"], mended["mended"]) == ("LAYER_WRITABLE", "made read-only")
    assert path.stat().st_mode & 0o777 == 0o440
    assert subject.found("--images", code=0) == []


def test_a_file_that_a_fold_has_marked_keeps_its_mode(subject: Subject) -> None:
    path = subject.world.layer_path(subject.layer_of("r"))
    worlds.leak(path)
    path.chmod(0o400)
    (found,) = subject.found("--images", "--repair")
    assert (found["kind"], found["mended"]) == ("IMAGE_LEAKS", "")
    assert path.stat().st_mode & 0o777 == 0o400


def test_what_stands_on_a_lost_layer_is_named_and_says_so_after_a_repair(subject: Subject) -> None:
    subject.world.layer_path(subject.layer_of("r")).unlink()
    (found,) = subject.found()
    assert found["kind"] == "LAYER_MISSING"
    assert found["affected"] == ["environments/e/snapshots/r", "environments/e/volumes/v"]
    subject.found("--repair", code=1)
    world = subject.world
    world.open()
    assert world.get_volume("v").state is model.VolumeState.FAILED
    problem = world.get_volume("v").error
    assert problem is not None
    assert problem.reason == "CORRUPT"
    assert world.get_snapshot("r").health is model.HealthState.DAMAGED
    assert world.get_snapshot("a").health is model.HealthState.OK
    assert world.volume_bytes("w").startswith(DATA)
    assert world.snapshot_bytes("a").startswith(DATA)


def test_refcounts_are_put_right_inside_of_frozen_layers(subject: Subject) -> None:
    path = subject.world.layer_path(subject.layer_of("r"))
    worlds.leak(path)
    path.chmod(0o440)
    assert subject.found(code=0) == [], "files are looked into on request only"
    (found,) = subject.found("--images")
    assert found["kind"] == "IMAGE_LEAKS"
    (mended,) = subject.found("--images", "--repair", code=1)
    assert mended["mended"] == "1 refcounts put right"
    assert subject.found("--images", code=0) == []
    assert path.stat().st_mode & 0o777 == 0o440


def test_tables_that_lead_nowhere_are_told_and_not_guessed_at(subject: Subject) -> None:
    path = subject.world.layer_path(subject.layer_of("r"))
    path.chmod(0o640)
    with path.open("r+b") as file:
        file.seek(40)
        l1 = int.from_bytes(file.read(8))
        file.seek(l1)
        file.write((1 << 40 | 512).to_bytes(8))
    path.chmod(0o440)
    (found,) = subject.found("--images", "--repair")
    assert (found["kind"], found["mended"]) == ("IMAGE_DAMAGED", "")
    assert "environments/e/volumes/v" in found["affected"]


def test_a_layer_of_another_size_is_told(subject: Subject) -> None:
    subject.execute("UPDATE layers SET size_bytes = 8388608 WHERE uid = ?", subject.layer_of("r"))
    (found,) = subject.found("--images", "--repair")
    assert (found["kind"], found["mended"]) == ("LAYER_DIFFERS", "")


def test_a_snapshot_that_the_archive_has_lost_is_damaged(subject: Subject) -> None:
    subject.remove_manifest("a")
    (found,) = subject.found()
    assert (found["kind"], found["affected"]) == ("COPY_MISSING", ["environments/e/snapshots/a"])
    (mended,) = subject.found("--repair", code=1)
    assert mended["mended"] == "its health is DAMAGED now"
    world = subject.world
    world.open()
    assert world.get_snapshot("a").health is model.HealthState.DAMAGED


def test_what_the_archive_has_lost_and_primary_storage_has_is_archived_anew(subject: Subject) -> None:
    subject.remove_manifest("b")
    (mended,) = subject.found("--repair", code=1)
    assert mended["mended"] == "it is still on primary storage, and is archived anew"
    world = subject.world
    # The command goes by the host's clock.
    world.clock.advance(clocks.SystemClock().now() - world.clock.now())
    world.start()
    world.until(lambda: world.get_snapshot("b").archive.state is model.ArchiveState.ARCHIVED)
    world.delete_volume("w")
    assert world.snapshot_bytes("b").startswith(DATA)
    world.until(lambda: checker.is_settled(world.settings))
    world.stop()
    assert subject.found(code=0) == []


def test_a_copy_that_the_catalog_does_not_know_is_told_and_left_alone(subject: Subject) -> None:
    (row,) = subject.world.rows("SELECT uid FROM snapshots WHERE id = 'a'")
    subject.execute("DELETE FROM snapshots WHERE id = 'a'")
    (found,) = subject.found("--repair")
    assert (found["kind"], found["subject"], found["mended"]) == ("COPY_UNEXPLAINED", row["uid"], "")
    assert any(row["uid"] in path.name for path in subject.world.settings.archive_path.rglob("*"))


def test_rows_that_contradict_one_another_keep_a_repair_from_changing_anything(subject: Subject) -> None:
    subject.world.layer_path(subject.layer_of("r")).unlink()
    subject.execute("UPDATE volumes SET head_layer = NULL WHERE id = 'w'")
    kinds = [(found["kind"], found["mended"]) for found in subject.found("--repair")]
    assert kinds == [("CATALOG_INCONSISTENT", ""), ("CATALOG_INCONSISTENT", ""), ("LAYER_MISSING", "")]


def test_a_damaged_catalog_is_told_and_nothing_else_is_looked_at(subject: Subject) -> None:
    path = subject.world.settings.catalog_path
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 3 * 4096))
    found = subject.found("--repair")
    assert {one["kind"] for one in found} == {"CATALOG_DAMAGED"}


def test_a_catalog_that_is_no_database_ends_the_check(subject: Subject) -> None:
    subject.world.settings.catalog_path.write_bytes(b"no database at all" * 1000)
    ended = subject.run()
    assert ended.exit_code == 8
    assert "is damaged" in ended.output


def test_a_catalog_of_an_older_release_is_brought_up_to_date_by_the_daemon_alone(subject: Subject) -> None:
    subject.execute(f"PRAGMA user_version = {len(migrations.STEPS) - 1}")
    ended = subject.run("--repair")
    assert ended.exit_code == 8
    assert "Start the daemon once" in ended.output


def test_a_pool_that_is_not_mounted_is_not_taken_for_lost(subject: Subject) -> None:
    pool = subject.world.settings.pool_path
    pool.rename(pool.with_name("elsewhere"))
    pool.mkdir()
    ended = subject.run("--repair")
    assert ended.exit_code == 8
    assert "is it mounted?" in ended.output
    assert list(pool.iterdir()) == []
    pool.rmdir()
    pool.with_name("elsewhere").rename(pool)
    assert subject.found(code=0) == []


def test_an_archive_that_is_away_is_not_taken_for_lost(subject: Subject) -> None:
    archive = subject.world.settings.archive_path
    archive.rename(archive.with_name("elsewhere"))
    ended = subject.run("--repair")
    assert ended.exit_code == 8
    assert "the archive was not compared" in ended.output
    assert subject.run("--no-archive").exit_code == 0


def test_a_layer_that_is_half_merged_keeps_its_mark(subject: Subject) -> None:
    world = subject.world
    world.open()
    world.snapshot("later", "v", rapid=True)
    world.stop()
    lower, child = (world.layer_path(subject.layer_of(name)) for name in ("r", "later"))
    lower.chmod(0o600)
    assert subject.found()[0]["kind"] == "LAYER_WRITABLE", "once it has its child's name nothing on it says so"
    child.chmod(0o400)
    assert subject.found("--repair", "--images", code=0) == []
    assert (lower.stat().st_mode & 0o777, child.stat().st_mode & 0o777) == (0o600, 0o400)


def test_what_can_not_be_mended_keeps_nothing_from_being_told_or_mended(subject: Subject) -> None:
    first, second = (row["uid"] for row in subject.world.rows("SELECT uid FROM layers WHERE state = 'FROZEN'"))
    for uid in (first, second):
        subject.world.layer_path(uid).chmod(0o640)
    with faults.observing(faults.fail(errno.EIO, "chmod", under=first)):
        found = subject.found("--repair")
    assert [one["kind"] for one in found] == ["LAYER_WRITABLE", "LAYER_WRITABLE"]
    assert sorted((one["mended"], "Input/output error" in one["problem_mending"]) for one in found) == [
        ("", True),
        ("made read-only", False),
    ]
    assert len(subject.found()) == 1


def test_the_folder_of_an_archive_that_is_away_is_not_made(subject: Subject) -> None:
    archive = subject.world.settings.archive_path
    archive.rename(archive.with_name("hidden"))
    ended = subject.run()
    assert (ended.exit_code, archive.exists()) == (8, False)
    assert "is it mounted?" in ended.output
