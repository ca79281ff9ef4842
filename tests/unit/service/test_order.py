"""The order in which the archiver takes up what is due, on a service with one worker."""

import dataclasses
import datetime
import random

from snapd import model
from snapd.service.snapshots import SnapshotSpec
from snapd.service.volumes import VolumeSpec
from tests.unit.service import faults
from tests.unit.service import world as worlds

HOUR = datetime.timedelta(hours=1)


def _volume(world: worlds.World, environment_id: str, volume_id: str) -> None:
    spec = VolumeSpec("", {}, model.VolumeRole.DATA, "", worlds.SIZE, "")
    world.service.volumes.create(worlds.request("CreateVolume", environment_id), environment_id, volume_id, spec)


def _snapshot(world: worlds.World, environment_id: str, snapshot_id: str, *, rapid: bool = True) -> None:
    request = worlds.request("CreateSnapshot", environment_id)
    spec = SnapshotSpec(rapid, "", {}, HOUR)
    world.service.snapshots.create(request, environment_id, snapshot_id, "v", spec)


def _begun(world: worlds.World) -> list[str]:
    """Return the ids of the archived snapshots in the order in which they got there."""
    rows = world.rows("SELECT id FROM snapshots WHERE archive_state = 'ARCHIVED' ORDER BY revision")
    return [row["id"] for row in rows]


def test_what_somebody_waits_for_is_archived_before_what_merely_became_due(world: worlds.World) -> None:
    held = faults.Held("archive.before-proof")
    for environment_id in ("other", "third"):
        world.environment(environment_id)
        _volume(world, environment_id, "v")
    world.volume("v")
    with faults.observing(held):
        _snapshot(world, "other", "first", rapid=False)
        held.reach()
        for number in range(3):
            _snapshot(world, "e", f"due-{number}")
        _snapshot(world, "third", "asked")
        world.pass_time(hours=1)
        world.service.snapshots.archive(worlds.request("ArchiveSnapshot", "third"), "third", "asked", "")
        _snapshot(world, "e", "regular", rapid=False)
        held.go_on()
        world.until(lambda: len(_begun(world)) == 6)
    order = _begun(world)
    assert order[0] == "first"
    assert set(order[1:3]) == {"asked", "regular"}
    assert order[3:] == ["due-0", "due-1", "due-2"]


def test_one_environment_may_have_as_many_runs_as_is_configured(world: worlds.World) -> None:
    settings = dataclasses.replace(world.settings, archive_workers=2, archive_workers_per_environment=1)
    world.restart(settings)
    world.environment("other")
    _volume(world, "other", "v")
    for volume_id in ("v", "w"):
        world.volume(volume_id)
    held = faults.Held("archive.before-proof")
    with faults.observing(held):
        world.snapshot("s", "v", rapid=False)
        held.reach()
        world.snapshot("t", "w", rapid=False)
        _snapshot(world, "other", "o", rapid=False)
        other = "SELECT 1 FROM snapshots WHERE id = 'o' AND archive_state = 'ARCHIVING'"
        world.until(lambda: bool(world.rows(other)))
        assert world.get_snapshot("t").archive.state is model.ArchiveState.SCHEDULED
        held.go_on()
        world.until(lambda: len(_begun(world)) == 3)


def test_the_estimate_is_what_lies_between_a_snapshot_and_what_is_archived(world: worlds.World) -> None:
    world.volume("v")
    pieces = [random.Random(number).randbytes(worlds.CLUSTER) for number in range(3)]
    world.write("v", 0, pieces[0] * 16)
    world.snapshot("base", "v", rapid=True)
    world.write("v", 0, pieces[1])
    small = world.snapshot("small", "v", rapid=True).archive.estimated_bytes
    large = world.get_snapshot("base").archive.estimated_bytes
    assert large > 16 * worlds.CLUSTER > small > worlds.CLUSTER, "before it is due, what lies below will be archived"
    held = faults.Held("archive.before-proof")
    with faults.observing(held):
        world.snapshot("regular", "v", rapid=False)
        held.reach()
        assert world.get_snapshot("regular").archive.estimated_bytes > large + small
        held.go_on()
        world.until(lambda: _begun(world) == ["regular"])
