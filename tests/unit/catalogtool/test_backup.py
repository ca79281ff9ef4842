"""`snapd-storage backup-catalog`: a copy that is whole and equal, or no file."""

import contextlib
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from snapd import fsops
from snapd.__main__ import main
from snapd.catalog import copying, db, events
from tests.unit.service import faults


@pytest.fixture
def state_dir(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Make a state folder whose catalog is open, as a daemon has it."""
    folder = tmp_path / "state"
    folder.mkdir()
    catalog = db.Catalog(folder / "catalog.sqlite3")
    with catalog.transaction() as tx:
        for number in range(2000):
            events.append(tx, "volume", f"volume {number}", "environment", 0)
    yield folder
    catalog.close()


def _run(state_dir: pathlib.Path, path: pathlib.Path) -> Result:
    return CliRunner().invoke(main, ["backup-catalog", "--state-dir", str(state_dir), str(path)])


def _dump(path: pathlib.Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def _names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_copy_is_equal_and_a_single_file(state_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "copies" / "copy"
    copy.parent.mkdir()
    ended = _run(state_dir, copy)
    assert ended.exit_code == 0, ended.output
    assert "up to revision 2000" in ended.output
    assert _names(copy.parent) == ["copy"]
    assert copy.stat().st_mode & 0o777 == 0o600
    copying.require_whole(copy)
    assert _dump(copy) == _dump(state_dir / "catalog.sqlite3")


def test_a_copy_beside_a_writer_is_of_one_moment(state_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    catalog = db.Catalog(state_dir / "catalog.sqlite3")
    ending = threading.Event()

    def write() -> None:
        while not ending.is_set():
            with catalog.transaction() as tx:
                for _ in range(50):
                    events.append(tx, "volume", "v", "environment", 0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(10):
            assert _run(state_dir, tmp_path / f"copy {number}").exit_code == 0
    finally:
        ending.set()
        writer.join()
        catalog.close()
    for number in range(10):
        path = tmp_path / f"copy {number}"
        copying.require_whole(path)
        assert copying.revision(path) % 50 == 0


def test_a_file_that_is_there_is_left_alone(state_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for path in (there, link):
        ended = _run(state_dir, path)
        assert ended.exit_code == 1
        assert "is there already" in ended.output
    assert there.read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()


def test_without_a_catalog_there_is_no_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state").mkdir()
    ended = _run(tmp_path / "state", tmp_path / "copy")
    assert ended.exit_code == 1
    assert "catalog.sqlite3" in ended.output
    assert _names(tmp_path) == ["state"]
    assert _names(tmp_path / "state") == []


def test_a_damaged_catalog_is_not_copied(state_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    catalog = state_dir / "catalog.sqlite3"
    with contextlib.closing(sqlite3.connect(catalog)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(catalog.read_bytes())
    data[5 * 4096 : 40 * 4096] = os.urandom(35 * 4096)
    other = tmp_path / "other"
    other.mkdir()
    (other / "catalog.sqlite3").write_bytes(data)
    ended = _run(other, tmp_path / "copy")
    assert ended.exit_code == 1
    assert "damaged" in ended.output
    assert not (tmp_path / "copy").exists()
    assert not list(tmp_path.glob(".copy*"))


@pytest.mark.parametrize("call", ["create", "fsync", "link", "syncdir"])
def test_what_fails_on_the_way_leaves_nothing_half_done(
    state_dir: pathlib.Path, tmp_path: pathlib.Path, call: str
) -> None:
    def fail(operation: fsops.Operation) -> None:
        if operation.name == call:
            raise OSError(28, os.strerror(28))

    with faults.observing(fail):
        ended = _run(state_dir, tmp_path / "copy")
    assert ended.exit_code == 1
    assert "no space" in ended.output
    assert not list(tmp_path.glob(".copy*"))
    if (tmp_path / "copy").exists():
        # It has its name by then; whether that is durable isn't known.
        assert call == "syncdir"
        copying.require_whole(tmp_path / "copy")
    else:
        assert _run(state_dir, tmp_path / "copy").exit_code == 0


def test_what_a_killed_run_left_is_in_nobodys_way(state_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / ".copy.tmp").write_bytes(b"half")
    assert _run(state_dir, tmp_path / "copy").exit_code == 0
    assert not list(tmp_path.glob(".copy*"))


def test_two_ways_to_name_the_daemon_are_one_too_many(tmp_path: pathlib.Path) -> None:
    arguments = ["backup-catalog", "--config", str(tmp_path / "c"), "--state-dir", str(tmp_path), str(tmp_path / "f")]
    assert CliRunner().invoke(main, arguments).exit_code == 2
