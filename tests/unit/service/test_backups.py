"""The worker that backs the catalog up: when it makes a backup, what it lets go of, and what it tells."""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import shutil
import sqlite3
from collections.abc import Iterator

import pytest

from snapd import errors, fsops
from snapd.archive import index
from snapd.archive import repository as repositories
from snapd.archive.backends import directory
from snapd.catalog import db
from snapd.service import backups, catalogarea
from snapd.service import core as cores
from tests.unit.service import faults
from tests.unit.service import world as worlds

INTERVAL = datetime.timedelta(minutes=5)


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[worlds.World]:
    """Run a service that has just backed up its environment; at the end everything that it left is checked."""
    world = worlds.World(tmp_path)
    world.settings = dataclasses.replace(world.settings, catalog_backup_interval=INTERVAL)
    world.start()
    world.environment()
    try:
        _until_saved(world)
        yield world
        world.check()
    finally:
        world.stop()


def _names(world: worlds.World) -> list[str]:
    return catalogarea.names(world.service._core.repository)


def _until_saved(world: worlds.World) -> None:
    """Wait for a backup that is made now, by the clock, which stands still meanwhile."""
    world.until(lambda: world.service.backups.state().newest == world.clock.now())


def _dump(path: pathlib.Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_what_has_happened_is_saved_once_the_interval_has_passed(world: worlds.World, tmp_path: pathlib.Path) -> None:
    world.volume("v")
    world.pass_time(minutes=5)
    _until_saved(world)
    name = _names(world)[0]
    back = tmp_path / "back"
    found = catalogarea.restore(world.service._core.repository, name, back)
    assert found.created == world.clock.now()
    assert _dump(back) == _dump(world.settings.catalog_path)
    assert not list(tmp_path.glob("catalog.sqlite3.backup*"))


def test_the_first_one_is_made_at_the_start(world: worlds.World) -> None:
    # Not before its time is there another one, unless the daemon is started again.
    world.volume("w")
    world.stop()
    world.clock.advance(datetime.timedelta(seconds=1))
    world.start()
    _until_saved(world)


def test_within_the_interval_none_is_made(world: worlds.World) -> None:
    world.volume("v")
    world.pass_time(minutes=5)
    _until_saved(world)
    before = _names(world)
    made = _Counting()
    with faults.observing(made):
        world.volume("w")
        world.pass_time(minutes=4, seconds=59)
        # The archiver's run needs longer than a backup would; it shows that time was there.
        world.archived("s", "w")
        assert not made.copies
        assert _names(world) == before
        world.pass_time(seconds=1)
        _until_saved(world)
    assert len(_names(world)) == len(before) + 1


def test_without_news_none_is_made_and_with_news_at_once(world: worlds.World) -> None:
    world.volume("v")
    world.pass_time(minutes=5)
    _until_saved(world)
    before = world.clock.now()
    made = _Counting()
    with faults.observing(made):
        world.pass_time(days=1)
        assert world.service.backups.state().newest == before
        assert not made.copies
        world.volume("w")
        # If there had been one without news, this one would have to wait for its time.
        _until_saved(world)


class _Counting:
    """Counts the copies of the catalog that are begun."""

    def __init__(self) -> None:
        self.copies = 0

    def __call__(self, operation: fsops.Operation) -> None:
        self.copies += operation.name == "create" and operation.target.endswith("catalog.sqlite3.backup")


def test_a_backup_that_takes_long_is_followed_by_a_longer_rest(world: worlds.World) -> None:
    world.volume("v")
    world.pass_time(minutes=5)
    _until_saved(world)
    taking_long = _TakingLong(world)
    with faults.observing(taking_long):
        world.volume("w")
        world.pass_time(minutes=5)
        world.until(lambda: taking_long.over and world.service.backups.state().newest == world.clock.now())
    made = _Counting()
    with faults.observing(made):
        world.volume("x")
        world.clock.advance(backups.STRETCH * _TakingLong.TIME - datetime.timedelta(seconds=1))
        world.archived("s", "x")
        assert not made.copies
        world.pass_time(seconds=1)
        _until_saved(world)


class _TakingLong:
    """Has a backup take ten minutes, by the clock."""

    TIME = datetime.timedelta(minutes=10)

    def __init__(self, world: worlds.World) -> None:
        self._world = world
        self.over = False

    def __call__(self, operation: fsops.Operation) -> None:
        if operation.name == "create" and operation.target.endswith("catalog.sqlite3.backup") and not self.over:
            self.over = True
            self._world.clock.advance(self.TIME)


def test_old_ones_are_let_go_and_their_packs_are_collected(world: worlds.World) -> None:
    for number in range(12):
        world.volume(f"v{number}")
        world.pass_time(minutes=5)
        _until_saved(world)
    names = _names(world)
    # The newest three; the newest of the day is one of them.
    assert len(names) == catalogarea.KEPT
    packs = world.service._core.repository.upkeep.packs
    world.until(lambda: len(packs(cores.CATALOG_AREA)) <= len(names) + 1)
    for name in names:
        catalogarea.restore(world.service._core.repository, name, world.settings.index_path.with_name(name))


def test_an_archive_that_is_away_is_told_and_tried_again(world: worlds.World) -> None:
    world.volume("v")
    world.pass_time(minutes=5)
    _until_saved(world)
    before = world.service.backups.state().newest
    archive = world.settings.archive_path
    hidden = archive.with_name("elsewhere")
    os.rename(archive, hidden)
    world.volume("w")
    world.pass_time(minutes=5)
    world.until(lambda: world.service.backups.state().problem is not None)
    problem = world.service.backups.state().problem
    assert problem is not None
    assert problem.reason == errors.ArchiveUnreachable.reason
    assert world.service.backups.state().newest == before
    os.rename(hidden, archive)
    # A quarter more than retry_initial at the most.
    world.pass_time(seconds=38)
    _until_saved(world)
    assert world.service.backups.state().problem is None


def test_a_failure_is_tried_again_after_a_longer_and_longer_time(world: worlds.World) -> None:
    world.volume("v")
    world.pass_time(minutes=5)
    _until_saved(world)
    tries = _Failing()
    with faults.observing(tries):
        world.volume("w")
        world.pass_time(minutes=5)
        for count, seconds in enumerate((38, 75, 150), 1):
            world.until(lambda count=count: tries.count == count)  # type: ignore[misc]
            world.until(lambda: world.service.backups.state().problem is not None)
            world.pass_time(seconds=seconds / 2 - 1)
            world.archived(f"s{count}", "v")
            assert tries.count == count, "it is too early"
            world.pass_time(seconds=seconds / 2 + 1)
        world.until(lambda: tries.count == 4)


class _Failing:
    """Has each copy of the catalog fail for want of space."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, operation: fsops.Operation) -> None:
        if operation.name == "create" and operation.target.endswith("catalog.sqlite3.backup"):
            self.count += 1
            raise OSError(28, os.strerror(28))


def test_what_a_killed_backup_left_is_removed(world: worlds.World) -> None:
    world.volume("v")
    world.stop()
    world.clock.advance(datetime.timedelta(seconds=1))
    left = [world.settings.catalog_path.with_name(f"catalog.sqlite3.backup{suffix}") for suffix in ("", "-wal", "-shm")]
    for path in left:
        path.write_bytes(b"half a copy")
    world.start()
    _until_saved(world)
    assert not any(path.exists() for path in left)


def test_an_older_catalog_than_the_archives_is_told_and_not_saved(world: worlds.World, tmp_path: pathlib.Path) -> None:
    world.volume("v")
    world.pass_time(minutes=5)
    _until_saved(world)
    world.stop()
    kept = tmp_path / "kept"
    shutil.copy(world.settings.catalog_path, kept)
    with db.looked_into(world.settings.catalog_path) as connection:
        assert connection.execute("PRAGMA wal_checkpoint").fetchone() is not None
    world.start()
    world.pass_time(seconds=1)
    world.volume("w")
    _until_saved(world)
    newest = _names(world)[0]
    world.stop()
    new = tmp_path / "new"
    shutil.move(world.settings.catalog_path, new)
    shutil.copy(kept, world.settings.catalog_path)
    world.start()
    world.until(lambda: world.service.backups.state().problem is not None)
    problem = world.service.backups.state().problem
    assert problem is not None
    assert problem.reason == errors.CatalogBehind.reason
    assert _names(world)[0] == newest
    world.stop()
    shutil.move(new, world.settings.catalog_path)


def test_a_manifest_of_a_backup_that_is_damaged_gives_way_to_newer_ones(world: worlds.World) -> None:
    world.volume("v")
    world.pass_time(minutes=5)
    _until_saved(world)
    (damaged,) = [path for path in world.settings.archive_path.rglob("*") if path.name.startswith(_names(world)[0])]
    name = _names(world)[0]
    world.stop()
    damaged.write_bytes(damaged.read_bytes()[:-9])
    world.start()
    world.pass_time(seconds=1)
    world.volume("w")
    _until_saved(world)
    world.until(lambda: name not in _names(world))


def test_damage_that_a_scrub_finds_is_stored_anew_by_the_next_backup(
    world: worlds.World, tmp_path: pathlib.Path
) -> None:
    world.volume("v")
    world.pass_time(minutes=5)
    _until_saved(world)
    repository = world.service._core.repository
    packs = repository.upkeep.packs(cores.CATALOG_AREA)
    assert packs
    for path in world.settings.archive_path.rglob("environments/catalog/packs/*/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
    world.pass_time(days=31)
    world.until(lambda: not _undamaged(world, {pack.pack_id for pack in packs}))
    world.volume("w")
    _until_saved(world)
    catalogarea.restore(repository, _names(world)[0], tmp_path / "back")


def _undamaged(world: worlds.World, pack_ids: set[bytes]) -> list[bytes]:
    """Return those of some packs that are there and not known to be damaged. Time passes, for the scrubber."""
    world.pass_time(hours=1)
    packs = world.service._core.repository.upkeep.packs(cores.CATALOG_AREA)
    return [one.pack_id for one in packs if one.pack_id in pack_ids and one.state is not index.State.DAMAGED]


def test_no_backups_are_made_where_the_settings_say_so(world: worlds.World) -> None:
    world.restart(dataclasses.replace(world.settings, catalog_backup_interval=datetime.timedelta(0)))
    before = _names(world)
    world.volume("v")
    world.pass_time(days=1)
    world.archived("s", "v")
    assert _names(world) == before
    assert world.service.backups.state() == backups.State()


def test_a_backup_is_no_snapshot_of_anybody(world: worlds.World) -> None:
    world.volume("v")
    snapshot = world.archived("s", "v")
    world.pass_time(minutes=5)
    _until_saved(world)
    host = world.settings.host
    listed, token = world.service.archives.snapshots(host, 100, "")
    assert [each.place.snapshot_uid for each in listed] == [snapshot.uid]
    assert not token
    archive = world.service.capacity().archive
    assert archive is not None
    world.stop()
    repository = repositories.Repository(
        directory.DirectoryBackend(world.settings.archive_path), world.settings.index_path.with_name("other"), host
    )
    both = [repository.stored_bytes(uid) for uid in (snapshot.environment_uid, cores.CATALOG_AREA)]
    assert min(both) > 0
    assert archive.used >= sum(both)
    repository.close()
    world.start()
    assert world.service.comparison.compared().found == ()
