"""Stores that fail or are full while snapshots are taken, archived and restored."""

import errno
import functools
import random

import pytest

from snapd import errors, fsops, model
from snapd.service.snapshots import SnapshotSpec
from tests.unit.service import faults
from tests.unit.service import world as worlds

CLUSTER = worlds.CLUSTER
NOISE = random.Random(1).randbytes(8 * CLUSTER)
RAPID = SnapshotSpec(True, "", {}, None)


# --- archiving --------------------------------------------------------------------------------------------------------


def test_a_snapshot_stays_usable_while_its_archive_fails_and_is_tried_again_later(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    before = world.volume_bytes("v")
    world.snapshot("s", "v", rapid=True)
    with faults.observing(faults.fail(errno.EIO, "create", under="/archive/")):
        world.pass_time(hours=24)
        world.until(lambda: world.get_snapshot("s").archive.error is not None)
        waiting = world.get_snapshot("s")
        assert (waiting.state, waiting.rapid) == (model.SnapshotState.COMPLETED, True)
        assert waiting.archive.state is model.ArchiveState.SCHEDULED
        assert waiting.archive.attempts == 1
        assert world.snapshot_bytes("s") == before
        world.clone("c", "s")
        assert world.volume_bytes("c") == before
    _wait_for_next_attempt(world)
    world.until(lambda: world.get_snapshot("s").archive.state is model.ArchiveState.ARCHIVED)
    assert world.get_snapshot("s").archive.error is None
    assert world.snapshot_bytes("s") == before


def _wait_for_next_attempt(world: worlds.World) -> None:
    next_attempt = world.get_snapshot("s").archive.next_attempt
    assert next_attempt is not None
    world.clock.advance(next_attempt - world.clock.now())


def test_attempts_come_at_growing_distances_up_to_the_longest(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    distances = []
    with faults.observing(faults.fail(errno.ENOSPC, "create", under="/archive/")):
        world.snapshot("s", "v", rapid=False)
        for attempt in range(1, 8):
            world.until(functools.partial(_waits, world, attempt))
            next_attempt = world.get_snapshot("s").archive.next_attempt
            assert next_attempt is not None
            distances.append((next_attempt - world.clock.now()) / world.settings.retry_initial)
            _wait_for_next_attempt(world)
        world.until(lambda: _waits(world, 8))
        assert world.get_snapshot("s").state is model.SnapshotState.IN_PROGRESS
    wanted = [1, 2, 4, 8, 16, 20, 20]
    assert all(0.75 * want <= distance <= 1.25 * want for distance, want in zip(distances, wanted, strict=True))
    _wait_for_next_attempt(world)
    world.until(lambda: world.get_snapshot("s").state is model.SnapshotState.COMPLETED)


def _waits(world: worlds.World, attempts: int) -> bool:
    archive = world.get_snapshot("s").archive
    return (archive.state, archive.attempts) == (model.ArchiveState.SCHEDULED, attempts)


def test_a_snapshot_that_waits_for_the_archive_can_be_deleted(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    with faults.observing(faults.fail(errno.EIO, "create", under="/archive/")):
        world.snapshot("s", "v", rapid=False)
        world.until(lambda: world.get_snapshot("s").archive.error is not None)
        world.delete_snapshot("s")
    assert world.get_volume("v").state is model.VolumeState.READY


def test_a_run_that_failed_after_its_commit_has_not_failed(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    with faults.observing(faults.fail_at_point(errno.EIO, "archive_run.committed")):
        world.archived("s", "v")
    assert world.get_snapshot("s").archive.error is None
    world.restart()


def test_a_base_that_is_damaged_is_done_without(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    world.archived("base", "v")
    for pack in (world.settings.archive_path / "hosts").glob("**/*.pack"):
        pack.unlink()
    world.write("v", 0, NOISE[:512][::-1])
    world.archived("s", "v")
    assert world.snapshot_bytes("s") == world.volume_bytes("v")


# --- captures ---------------------------------------------------------------------------------------------------------


def test_a_capture_that_failed_after_its_commit_keeps_the_new_head(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    before = world.volume_bytes("v")
    # That which takes the permission to write, not that of the new head, which has no name yet.
    with faults.observing(faults.fail(errno.EIO, "chmod", under=".qcow2")):
        world.snapshot("s", "v", rapid=True)
    world.write("v", 0, NOISE[::-1])
    assert world.snapshot_bytes("s") == before
    world.restart()
    assert world.volume_bytes("v") == NOISE[::-1] + before[len(NOISE) :]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_capture_without_room_leaves_everything_as_it_was(world: worlds.World, code: int) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    before = world.volume_bytes("v")
    request = worlds.request("CreateSnapshot")
    with (
        faults.observing(faults.fail(code, "create", under="/pool/")),
        pytest.raises(errors.StorageFull if code == errno.ENOSPC else errors.StorageFailed),
    ):
        world.service.snapshots.create(request, "e", "s", "v", RAPID)
    with pytest.raises(errors.NotFound):
        world.get_snapshot("s")
    assert world.volume_bytes("v") == before
    assert world.service.snapshots.create(request, "e", "s", "v", RAPID)[0].state is model.SnapshotState.COMPLETED


def test_a_full_pool_takes_nothing_new_but_lets_go(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    world.restart(worlds.without_room(world.settings))
    for call in (
        lambda: world.volume("w"),
        lambda: world.clone("c", "s"),
        lambda: world.snapshot("t", "v", rapid=True),
        lambda: world.revert("v", "s"),
        lambda: world.write("v", 0, NOISE),
    ):
        with pytest.raises(errors.PoolFull) as refused:
            call()
        assert refused.value.free_bytes < refused.value.watermark_bytes
    world.pass_time(hours=24)
    world.until(lambda: not world.get_snapshot("s").rapid)
    world.delete_snapshot("s")
    world.delete_volume("v")


def test_an_update_during_a_capture_is_not_taken_back(world: worlds.World) -> None:
    world.volume("v")

    def rename(operation: fsops.Operation) -> None:
        if operation.target == "capture.before_commit":
            world.service.volumes.update(worlds.request("UpdateVolume"), "e", "v", "", {"instance": "i-7"})

    with faults.observing(rename):
        world.snapshot("s", "v", rapid=True)
    assert world.get_volume("v").instance == "i-7"


# --- restores ---------------------------------------------------------------------------------------------------------


def _archived_and_gone(world: worlds.World) -> bytes:
    """Make an archived snapshot `s` that has left primary storage, and return its contents."""
    world.volume("v")
    world.write("v", 0, NOISE)
    before = world.volume_bytes("v")
    world.archived("s", "v")
    return before


def test_a_clone_that_can_not_be_restored_fails_with_the_reason_and_can_be_deleted(world: worlds.World) -> None:
    before = _archived_and_gone(world)
    world.delete_volume("v")
    _, operation = _begin_clone_failing(world)
    problem = world.ended(operation).error
    assert problem is not None
    assert problem.reason == "STORAGE_FULL"
    volume = world.get_volume("c")
    assert (volume.state, volume.error) == (model.VolumeState.FAILED, problem)
    world.delete_volume("c")
    world.clone("c", "s")
    assert world.volume_bytes("c") == before


def _begin_clone_failing(world: worlds.World) -> tuple[model.Volume, model.Operation]:
    with faults.observing(faults.fail_at_point(errno.ENOSPC, "restore.before_publish")):
        made = world.service.volumes.create(worlds.request("CreateVolume"), "e", "c", worlds.clone_of("s"))
        world.ended(made[1])
    return made


def test_a_revert_that_can_not_be_restored_leaves_the_volume_as_it_was(world: worlds.World) -> None:
    before = _archived_and_gone(world)
    world.write("v", 0, NOISE[::-1])
    now = world.volume_bytes("v")
    world.archived("later", "v")
    point = world.get_snapshot("s").point
    # It is folded into what was captured later, so the revert has to restore it.
    world.until(lambda: bool(world.rows("SELECT 1 FROM points WHERE uid = ? AND layer IS NULL", point)))
    with faults.observing(faults.fail_at_point(errno.EIO, "revert.before_commit")):
        _, operation = world.service.volumes.revert(worlds.request("RevertVolume"), "e", "v", "s", "")
        problem = world.ended(operation).error
    assert problem is not None
    assert world.get_volume("v").state is model.VolumeState.READY
    assert world.volume_bytes("v") == now
    world.revert("v", "s")
    assert world.volume_bytes("v") == before


def test_a_snapshot_can_be_deleted_while_a_clone_is_restored_from_it(world: worlds.World) -> None:
    before = _archived_and_gone(world)
    world.delete_volume("v")
    deletions: list[model.Operation] = []

    def delete(operation: fsops.Operation) -> None:
        if operation.target == "restore.before_publish":
            _, begun = world.service.snapshots.delete(worlds.request("DeleteSnapshot"), "e", "s", "", False)
            assert begun is not None
            deletions.append(begun)

    with faults.observing(delete):
        world.clone("c", "s")
    world.succeed(deletions[0])
    assert world.volume_bytes("c") == before
    with pytest.raises(errors.NotFound):
        world.get_snapshot("s")


def test_two_clones_restore_a_point_once(world: worlds.World) -> None:
    before = _archived_and_gone(world)
    world.delete_volume("v")
    begun = [
        world.service.volumes.create(worlds.request("CreateVolume"), "e", f"c{number}", worlds.clone_of("s"))[1]
        for number in range(3)
    ]
    for operation in begun:
        world.succeed(operation)
    assert [world.volume_bytes(f"c{number}") for number in range(3)] == [before] * 3
    world.until(lambda: len(world.rows("SELECT 1 FROM layers")) == 4)


def test_a_deletion_that_failed_can_be_made_again(world: worlds.World) -> None:
    _archived_and_gone(world)
    with faults.observing(faults.fail_at_point(errno.EIO, "delete_snapshot.manifest_removed")):
        _, operation = world.service.snapshots.delete(worlds.request("DeleteSnapshot"), "e", "s", "", False)
        assert operation is not None
        assert world.ended(operation).error is not None
    assert world.get_snapshot("s").state is model.SnapshotState.FAILED
    world.delete_snapshot("s")
    assert world.get_volume("v").state is model.VolumeState.READY
