"""Scrubs: the archive is read again by itself, and snapshots tell how long ago, and whether they are whole."""

import pathlib
import random

import pytest

from snapd import errors, model
from tests.unit.service import world as worlds


@pytest.fixture
def archived(world: worlds.World) -> model.Snapshot:
    """An archived snapshot of a volume with some data."""
    world.volume("v")
    world.write("v", 0, random.Random(1).randbytes(3 * worlds.CLUSTER))
    return world.archived("s", "v")


def packs(world: worlds.World) -> list[pathlib.Path]:
    return [path for path in world.settings.archive_path.rglob("packs/*/*") if path.is_file()]


def scrub(world: worlds.World) -> None:
    world.service._scrubber.look()


def test_what_was_archived_is_checked_again_when_its_time_has_come(
    world: worlds.World, archived: model.Snapshot
) -> None:
    scrub(world)
    assert world.get_snapshot("s").archive.checked is None, "nothing was due"
    world.pass_time(days=31)
    world.until(lambda: world.get_snapshot("s").archive.checked == world.clock.now())
    found = world.get_snapshot("s")
    assert found.health is model.HealthState.OK
    assert found.revision == archived.revision, "a check is no change"


def test_damage_is_noted_and_taken_back_when_it_is_mended(world: worlds.World, archived: model.Snapshot) -> None:
    (pack,) = packs(world)
    pristine = pack.read_bytes()
    pack.write_bytes(pristine[:1000] + bytes([pristine[1000] ^ 1]) + pristine[1001:])
    world.pass_time(days=31)
    world.until(lambda: world.get_snapshot("s").health is model.HealthState.DAMAGED)
    assert world.get_snapshot("s").revision > archived.revision
    pack.write_bytes(pristine)
    world.pass_time(days=31)
    world.until(lambda: world.get_snapshot("s").health is model.HealthState.OK)


def test_an_archive_that_is_away_keeps_nobody_from_anything_else(world: worlds.World) -> None:
    world.volume("v")
    world.archived("s", "v")
    away = world.settings.archive_path.with_name("away")
    world.settings.archive_path.rename(away)
    world.pass_time(days=31)
    world.snapshot("t", "v", rapid=True)
    assert world.get_snapshot("t").state is model.SnapshotState.COMPLETED
    world.snapshot("u", "v", rapid=True)
    world.delete_snapshot("u")
    with pytest.raises(errors.NotFound):
        world.get_snapshot("u")
    away.rename(world.settings.archive_path)
    world.pass_time(days=1)
    world.until(lambda: world.get_snapshot("t").archive.state is model.ArchiveState.ARCHIVED)
