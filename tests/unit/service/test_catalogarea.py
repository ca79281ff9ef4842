"""Backups of a catalog in an archive: what is put in comes out, or not at all."""

import datetime
import pathlib
from collections.abc import Iterator

import pytest

from snapd import clock as clocks
from snapd import errors
from snapd import pace as paces
from snapd.archive import repository as repositories
from snapd.archive.backends import memory
from snapd.catalog import copying, db, events
from snapd.copier import control as controls
from snapd.service import catalogarea
from snapd.service import core as cores

NOW = datetime.datetime(2026, 3, 20, 12, tzinfo=datetime.UTC)
_BLOCK = 64 * 1024


class _Host:
    """A catalog in which things happen, and an archive that takes its backups."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.store = memory.MemoryBackend()
        self.repository = repositories.Repository.open(self.store, folder / "index", "host-1", block_size=_BLOCK)
        self.catalog = db.Catalog(folder / "catalog")

    def change(self, count: int = 1) -> None:
        with self.catalog.transaction() as tx:
            for number in range(count):
                events.append(tx, "volume", f"volume {number}", "environment", 0)

    def backup(self, now: datetime.datetime = NOW) -> catalogarea.Backup:
        copy = self.folder / "copy"
        copying.copy(self.catalog.path, copy)
        try:
            pace = paces.Pace(clocks.ManualClock(now), 0)
            return catalogarea.record(self.repository, copy, now, pace, controls.Control())
        finally:
            copying.discard(copy)


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Iterator[_Host]:
    host = _Host(tmp_path)
    yield host
    host.catalog.close()
    host.repository.close()


def _dump(path: pathlib.Path) -> list[str]:
    with db.looked_into(path) as connection:
        return list(connection.iterdump())


def test_a_backup_comes_out_equal_without_a_claim(host: _Host) -> None:
    host.change(5000)
    made = host.backup()
    reader = repositories.Repository(host.store, host.folder / "another index", "host-1")
    assert catalogarea.names(reader) == [made.name]
    back = host.folder / "back"
    assert catalogarea.restore(reader, made.name, back) == made
    assert made == catalogarea.Backup("backup-00000000000000005000", 5000, NOW, made.schema, back.stat().st_size)
    assert _dump(back) == _dump(host.catalog.path)
    reader.close()


def test_names_are_listed_newest_first(host: _Host) -> None:
    made = []
    for _ in range(12):
        host.change()
        made.append(host.backup().name)
    assert catalogarea.names(host.repository) == made[::-1]


def test_a_second_backup_stores_what_has_changed(host: _Host) -> None:
    host.change(20_000)
    host.backup()
    host.change()
    name = host.backup().name
    statistics = host.repository.manifest(cores.CATALOG_AREA, name).statistics
    assert statistics.deduplicated_blocks >= statistics.blocks - 4
    assert statistics.new_blocks >= 1


def test_there_is_one_backup_of_a_revision(host: _Host) -> None:
    host.change()
    host.backup()
    with pytest.raises(errors.AlreadyExists):
        host.backup()


def test_a_damaged_backup_is_refused_and_leaves_no_file(host: _Host) -> None:
    host.change(100)
    name = host.backup().name
    for key, _ in list(host.store.list("")):
        if "/packs/" in key:
            data = bytearray(host.store.get(key))
            data[len(data) // 2] ^= 1
            host.store.delete(key)
            host.store.put(key, [bytes(data)])
    back = host.folder / "back"
    with pytest.raises(errors.Corrupt):
        catalogarea.restore(host.repository, name, back)
    assert not list(host.folder.glob("back*"))


def test_a_file_that_is_there_is_left_alone(host: _Host) -> None:
    host.change()
    name = host.backup().name
    there = host.folder / "back"
    there.write_bytes(b"mine")
    with pytest.raises(errors.StorageFailed):
        catalogarea.restore(host.repository, name, there)
    assert there.read_bytes() == b"mine"


def test_a_backup_whose_manifest_tells_of_another_is_refused(host: _Host) -> None:
    with host.repository.begin(cores.CATALOG_AREA, catalogarea.name_of(7), 0) as recording:
        recording.commit({"revision": "8", "created": NOW.isoformat(), "schema": "6"})
    with pytest.raises(errors.Corrupt):
        catalogarea.look(host.repository, catalogarea.name_of(7))


@pytest.mark.parametrize("metadata", [{}, {"revision": "x", "created": NOW.isoformat(), "schema": "6"}])
def test_a_manifest_of_another_form_is_refused(host: _Host, metadata: dict[str, str]) -> None:
    with host.repository.begin(cores.CATALOG_AREA, catalogarea.name_of(7), 0) as recording:
        recording.commit(metadata)
    with pytest.raises(errors.Corrupt):
        catalogarea.look(host.repository, catalogarea.name_of(7))


def test_what_is_no_backup_is_not_listed(host: _Host) -> None:
    with host.repository.begin(cores.CATALOG_AREA, "backup-1", 0) as recording:
        recording.commit({})
    assert catalogarea.names(host.repository) == []


def _made(revision: int, ago: datetime.timedelta) -> catalogarea.Backup:
    return catalogarea.Backup(catalogarea.name_of(revision), revision, NOW - ago, 6, 0)


def test_the_newest_three_are_kept_and_the_newest_of_each_late_day() -> None:
    hours = datetime.timedelta(hours=1)
    backups = [_made(1000 - number, number * 6 * hours) for number in range(60)]
    gone = {backup.revision for backup in catalogarea.superseded(backups, NOW)}
    kept = [backup for backup in backups if backup.revision not in gone]
    assert [backup.created for backup in kept[:3]] == [NOW, NOW - 6 * hours, NOW - 12 * hours]
    # Today's is among the newest three; each of the six days before has its last one.
    last = NOW.replace(hour=18)
    assert [backup.created for backup in kept[3:]] == [last - datetime.timedelta(days=day) for day in range(1, 7)][0:6]


def test_old_backups_are_kept_if_there_are_no_newer_ones() -> None:
    year = datetime.timedelta(days=365)
    backups = [_made(number, year) for number in range(1, 6)]
    assert [backup.revision for backup in catalogarea.superseded(backups, NOW)] == [2, 1]
