"""Scrubs: the archive is read again by itself, and snapshots tell how long ago, and whether they are whole."""

import dataclasses
import datetime
import pathlib
import random
import shutil
import threading

import pytest

from snapd import errors, fsops, model
from tests.unit.service import faults
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
    found = world.get_snapshot("s")
    assert found.revision > archived.revision
    assert found.damage == model.Damage(((0, worlds.CLUSTER),), worlds.CLUSTER)
    world.restart()
    assert world.get_snapshot("s").damage == found.damage
    pack.write_bytes(pristine)
    world.pass_time(days=31)
    world.until(lambda: world.get_snapshot("s").health is model.HealthState.OK)
    assert world.get_snapshot("s").damage is None


def flip(path: pathlib.Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def leave_primary(world: worlds.World) -> None:
    """Let go of the volume, so that its snapshots are in the archive alone."""
    world.delete_volume("v")
    world.until(world.idle)


@pytest.mark.usefixtures("archived")
def test_damage_that_a_reader_meets_is_told_with_its_ranges_and_noted(world: worlds.World) -> None:
    leave_primary(world)
    flip(packs(world)[0], 1000)
    with pytest.raises(errors.SnapshotDamaged) as told:
        world.snapshot_bytes("s")
    assert told.value.name == "environments/e/snapshots/s"
    assert (told.value.damaged_bytes, told.value.ranges) == (worlds.CLUSTER, f"0+{worlds.CLUSTER}")
    world.until(lambda: world.get_snapshot("s").health is model.HealthState.DAMAGED)


@pytest.mark.parametrize("of_any_host", [False, True])
def test_a_volume_of_a_damaged_snapshot_fails_with_the_ranges(
    world: worlds.World, archived: model.Snapshot, of_any_host: bool
) -> None:
    leave_primary(world)
    flip(packs(world)[0], 1000)
    spec = worlds.clone_of("s")
    if of_any_host:
        place = model.ArchivePlace(world.settings.host, archived.environment_uid, archived.uid)
        spec = dataclasses.replace(worlds.clone_of(""), source_place=place)
    made, operation = world.service.volumes.create(worlds.request("CreateVolume"), "e", "w", spec)
    error = world.ended(operation).error
    assert error is not None
    assert (error.branch, error.reason) == ("DataLoss", "SNAPSHOT_DAMAGED")
    assert error.metadata["ranges"] == f"0+{worlds.CLUSTER}"
    assert world.get_volume(made.id).state is model.VolumeState.FAILED
    world.until(lambda: world.get_snapshot("s").health is model.HealthState.DAMAGED)


@pytest.mark.usefixtures("archived")
def test_a_later_archive_that_stores_the_lost_blocks_again_mends_what_was_damaged(world: worlds.World) -> None:
    flip(packs(world)[0], 1000)
    world.pass_time(days=31)
    world.until(lambda: world.get_snapshot("s").health is model.HealthState.DAMAGED)
    # The damaged one is no base, and what its pack held is no hit.
    world.archived("t", "v")
    world.until(lambda: world.get_snapshot("s").health is model.HealthState.OK)
    leave_primary(world)
    assert world.snapshot_bytes("s") == world.snapshot_bytes("t")


def test_a_manifest_that_is_lost_or_unreadable_is_damage_of_all(world: worlds.World, archived: model.Snapshot) -> None:
    world.archived("t", "v")
    manifests = {path.name.split(".")[0]: path for path in world.settings.archive_path.rglob("manifests/*")}
    pristine = {path: path.read_bytes() for path in manifests.values()}
    manifests[archived.uid].unlink()
    flip(manifests[world.get_snapshot("t").uid], 100)
    world.service._core.suspects.add(archived.environment_uid)
    for name in ("s", "t"):
        world.until(lambda name=name: world.get_snapshot(name).health is model.HealthState.DAMAGED)  # type: ignore[misc]
        assert world.get_snapshot(name).damage == model.Damage(((0, worlds.SIZE),), worlds.SIZE)
    for path, data in pristine.items():
        path.write_bytes(data)


def test_archived_snapshots_are_unreachable_while_the_archive_is_away_and_nothing_of_that_is_stored(
    world: worlds.World, archived: model.Snapshot
) -> None:
    world.snapshot("rapid", "v", rapid=True)
    away = world.settings.archive_path.with_name("away")
    world.settings.archive_path.rename(away)
    with pytest.raises(errors.ArchiveUnreachable):
        world.service._core.repository.require_usable()
    assert world.get_snapshot("s").health is model.HealthState.UNREACHABLE
    assert world.get_snapshot("s").revision == archived.revision
    assert world.get_snapshot("rapid").health is model.HealthState.OK
    assert world.service.archive_error() is not None
    away.rename(world.settings.archive_path)
    assert world.service.capacity().archive is not None
    assert world.get_snapshot("s") == archived
    assert world.service.archive_error() is None


@pytest.mark.usefixtures("archived")
def test_a_restart_without_the_archive_knows_that_it_is_away(world: worlds.World) -> None:
    away = world.settings.archive_path.with_name("away")
    world.settings.archive_path.rename(away)
    world.restart()
    assert world.get_snapshot("s").health is model.HealthState.UNREACHABLE
    world.stop()
    # The daemon has made the empty folder that an unmounted archive is.
    shutil.rmtree(world.settings.archive_path)
    away.rename(world.settings.archive_path)


def test_a_pause_of_the_keeper_holds_scheduled_scrubs(world: worlds.World, archived: model.Snapshot) -> None:
    world.service.work.pause(worlds.request("PauseWork"), [model.Worker.KEEPER], "", None)
    world.clock.advance(datetime.timedelta(days=31))
    scrub(world)
    world.service._scrubber.scrub(archived.environment_uid)
    assert world.get_snapshot("s").archive.checked == worlds.START, "noted, and not checked anew"
    world.service.work.resume(worlds.request("ResumeWork"), [])
    world.pass_time(minutes=10)
    world.until(lambda: world.get_snapshot("s").archive.checked == world.clock.now())


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


def test_garbage_that_is_being_checked_goes_when_the_check_is_over(
    world: worlds.World, archived: model.Snapshot
) -> None:
    upkeep = world.service._core.repository.upkeep
    collected = threading.Event()

    def look(seen: fsops.Operation) -> None:
        if seen.target == "archive.collect-deleted":
            collected.set()

    check = upkeep.check(archived.environment_uid, upkeep.packs(archived.environment_uid), lambda: None)
    # The check relies on the pack until it goes on.
    next(check)
    with faults.observing(look):
        world.delete_snapshot("s")
        assert collected.wait(faults.PATIENCE_S)
    assert packs(world)
    assert list(check) == []
    # No time passes, so that the keeper's next round doesn't come.
    world.until(lambda: not packs(world))
