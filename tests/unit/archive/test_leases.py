"""Leases that nobody gives back: of a daemon that died, and of a tool."""

import pathlib

import pytest

from snapd import errors
from snapd.archive import layout, repository
from snapd.archive.backends import memory
from snapd.archive.fencing import leases
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content

AREA = layout.Area(HOST, ENVIRONMENT)


def _died_reading(store: memory.MemoryBackend, folder: pathlib.Path) -> object:
    """Leave a snapshot that was deleted, and the lease of a daemon that died while it read it.

    What is returned would give the lease back if it went.
    """
    daemon = repository.Repository.open(store, folder / "index.sqlite3", HOST, block_size=BLOCK)
    with daemon.begin(ENVIRONMENT, "snap", BLOCK) as recording:
        recording.put(0, content(0))
        recording.commit({})
    reading = daemon.reading(ENVIRONMENT, HOST)
    reading.__enter__()
    daemon.delete_snapshot(ENVIRONMENT, "snap")
    assert daemon.upkeep.collect(ENVIRONMENT).packs_postponed == 1
    # Its thread goes with it; what it would do at its end it doesn't do.
    session = daemon._access._session
    assert session is not None
    session._ending.set()
    session._thread.join()
    daemon._access.index.close()
    return reading


@pytest.mark.parametrize("adopt", [False, True], ids=["started again", "adopted"])
def test_the_leases_of_a_daemon_that_died_do_not_outlive_its_successor_s_start(
    tmp_path: pathlib.Path, adopt: bool
) -> None:
    store = memory.MemoryBackend()
    never_ended = _died_reading(store, tmp_path)
    assert leases.is_read(store, AREA)
    index = tmp_path / ("adopter.sqlite3" if adopt else "index.sqlite3")
    if adopt:
        with pytest.raises(errors.ArchiveClaimed):
            repository.Repository.open(store, index, HOST)
        for key, _ in list(store.list(layout.Host(HOST).renewals)):
            store.delete(key)
    successor = repository.Repository.open(store, index, HOST, adopt=adopt)
    assert list(store.list(layout.Host(HOST).leases)) == []
    successor.upkeep.collect(ENVIRONMENT)
    assert list(store.list(AREA.packs)) == []
    successor.close()
    del never_ended


def test_a_tool_s_lease_stays_when_a_daemon_starts(tmp_path: pathlib.Path) -> None:
    store = memory.MemoryBackend()
    tool = leases.Lease(store, layout.Host(HOST), AREA)
    daemon = repository.Repository.open(store, tmp_path / "index.sqlite3", HOST, block_size=BLOCK)
    assert leases.is_read(store, AREA)
    tool.give_back()
    assert not leases.is_read(store, AREA)
    daemon.close()


def test_a_lease_that_can_not_be_read_stays(tmp_path: pathlib.Path) -> None:
    store = memory.MemoryBackend()
    store.put(layout.Host(HOST).leases + "0" * 32, [b"{}"])
    daemon = repository.Repository.open(store, tmp_path / "index.sqlite3", HOST, block_size=BLOCK)
    assert leases.is_read(store, AREA)
    daemon.close()
