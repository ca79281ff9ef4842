"""A limit on what archiving reads: time stands still here, so a run that is slowed waits until it is told otherwise."""

import dataclasses
import datetime
import random

import pytest

from snapd import model, units
from tests.unit.service import world as worlds

NOISE = random.Random(6).randbytes(2 * units.MIB)


@pytest.fixture
def slowed(world: worlds.World) -> worlds.World:
    """Limit archiving to a quarter of a MiB per second."""
    world.restart(dataclasses.replace(world.settings, archive_bytes_per_second=256 * units.KIB))
    world.volume("v")
    world.write("v", 0, NOISE)
    return world


def _running(world: worlds.World) -> bool:
    archive = world.get_snapshot("s").archive
    return archive.state is model.ArchiveState.ARCHIVING and 0 < archive.bytes_done < archive.bytes_total


def test_a_run_goes_on_as_time_does(slowed: worlds.World) -> None:
    slowed.snapshot("s", "v", rapid=False)
    slowed.until(lambda: _running(slowed))
    assert slowed.get_snapshot("s").archive.bytes_done <= 256 * units.KIB

    def a_second_later() -> bool:
        slowed.pass_time(seconds=1)
        return slowed.get_snapshot("s").state is model.SnapshotState.COMPLETED

    slowed.until(a_second_later)
    assert slowed.clock.now() - worlds.START > datetime.timedelta(seconds=6)
    assert slowed.snapshot_bytes("s")[: len(NOISE)] == NOISE


def test_a_run_that_is_slowed_can_be_cancelled_at_once(slowed: worlds.World) -> None:
    slowed.snapshot("s", "v", rapid=False)
    slowed.until(lambda: _running(slowed))
    slowed.delete_snapshot("s")
    assert slowed.get_volume("v").state is model.VolumeState.READY


def test_a_run_that_is_slowed_can_be_paused_at_once(slowed: worlds.World) -> None:
    slowed.snapshot("s", "v", rapid=False)
    slowed.until(lambda: _running(slowed))
    slowed.service.work.pause(worlds.request("PauseWork", ""), (), "", None)
    slowed.until(lambda: slowed.get_snapshot("s").archive.state is model.ArchiveState.SCHEDULED)
    slowed.delete_snapshot("s")
    slowed.service.work.resume(worlds.request("ResumeWork", ""), ())


def test_a_run_that_is_slowed_does_not_hold_up_the_end_of_the_daemon(slowed: worlds.World) -> None:
    slowed.snapshot("s", "v", rapid=False)
    slowed.until(lambda: _running(slowed))
    slowed.restart(dataclasses.replace(slowed.settings, archive_bytes_per_second=0))
    slowed.until(lambda: slowed.get_snapshot("s").state is model.SnapshotState.COMPLETED)


def test_what_is_restored_or_exported_is_not_slowed(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    world.archived("s", "v")
    world.delete_volume("v")
    world.restart(dataclasses.replace(world.settings, archive_bytes_per_second=64 * units.KIB))
    assert world.snapshot_bytes("s")[: len(NOISE)] == NOISE
    world.clone("c", "s")
    assert world.volume_bytes("c")[: len(NOISE)] == NOISE
