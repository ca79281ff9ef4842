"""What a rebuilt catalog isn't sure of is marked, found by its mark, and unmarked by the first update of a caller."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import pytest

from snapd import model
from snapd.catalog import db, snapshots, volumes
from tests.unit.service import world as worlds


def _query(filter_: str) -> model.Query:
    return model.Query("e", "me", 10, "", filter_, "")


@pytest.fixture
def marked(tmp_path: pathlib.Path) -> Iterator[worlds.World]:
    """Open a service with volumes `v` and `w` and snapshots `r` and `s`, of which `v` and `r` are marked."""
    world = worlds.World(tmp_path)
    world.open()
    world.environment()
    for volume_id in ("v", "w"):
        world.volume(volume_id)
    for snapshot_id in ("r", "s"):
        world.snapshot(snapshot_id, "v", rapid=True)
    volume, snapshot = world.get_volume("v"), world.get_snapshot("r")
    world.stop()
    with contextlib.closing(db.Catalog(world.settings.catalog_path)) as catalog, catalog.transaction() as tx:
        volumes.put(tx, dataclasses.replace(volume, recovered=True))
        snapshots.put(tx, dataclasses.replace(snapshot, recovered=True))
    world.open()
    yield world
    world.stop()


def test_what_is_made_is_not_marked(marked: worlds.World) -> None:
    assert not marked.get_volume("w").recovered
    assert not marked.get_snapshot("s").recovered


@pytest.mark.parametrize(("filter_", "found"), [("recovered = true", ["v"]), ("recovered = false", ["w"])])
def test_volumes_are_found_by_their_mark(marked: worlds.World, filter_: str, found: list[str]) -> None:
    assert [volume.id for volume in marked.service.volumes.list(_query(filter_)).items] == found


@pytest.mark.parametrize(("filter_", "found"), [("recovered = true", ["r"]), ("recovered != true", ["s"])])
def test_snapshots_are_found_by_their_mark(marked: worlds.World, filter_: str, found: list[str]) -> None:
    assert [snapshot.id for snapshot in marked.service.snapshots.list(_query(filter_)).items] == found


def test_an_update_by_a_caller_takes_the_mark_away(marked: worlds.World) -> None:
    volume = marked.service.volumes.update(worlds.request("UpdateVolume"), "e", "v", "", {"instance": "i-1"})
    assert not volume.recovered
    changes = {"labels": {"looked": "at"}}
    snapshot = marked.service.snapshots.update(worlds.request("UpdateSnapshot"), "e", "r", "", changes)
    assert not snapshot.recovered


def test_what_the_daemon_does_leaves_the_mark(marked: worlds.World) -> None:
    marked.snapshot("t", "v", rapid=True)
    assert marked.get_volume("v").recovered
    marked.revert("v", "r")
    assert marked.get_volume("v").recovered
