"""Operations: what callers watch, and what cancelling does."""

import dataclasses
import random
import threading

import pytest

from snapd import errors, fsops, model
from tests.unit.service import faults
from tests.unit.service import world as worlds

NOISE = random.Random(2).randbytes(8 * worlds.CLUSTER)


def _archived_and_gone(world: worlds.World) -> bytes:
    world.volume("v")
    world.write("v", 0, NOISE)
    before = world.volume_bytes("v")
    world.archived("s", "v")
    world.delete_volume("v")
    return before


def _reason(operation: model.Operation) -> str:
    assert operation.error is not None
    return operation.error.reason


def test_an_operation_shows_how_far_its_work_is(world: worlds.World) -> None:
    _archived_and_gone(world)
    held = faults.Held("restore.before_publish")
    with faults.observing(held):
        _, operation = world.service.volumes.create(worlds.request("CreateVolume"), "e", "c", worlds.clone_of("s"))
        held.reach()
        running = world.service.operations.get("e", operation.id)
        assert (running.done, running.stage) == (False, "FLUSHING")
        page = world.service.operations.list(model.Query("e", "me", 10, "", "done = false", ""))
        assert [(each.id, each.stage) for each in page.items] == [(operation.id, "FLUSHING")]
        held.go_on()
        world.succeed(operation)
    ended = world.service.operations.get("e", operation.id)
    assert (ended.stage, ended.ended) == ("", world.clock.now())


def test_an_archive_run_shows_how_far_it_is(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    held = faults.Held("archive.before-proof")
    with faults.observing(held):
        world.snapshot("s", "v", rapid=False)
        held.reach()
        archive = world.get_snapshot("s").archive
        assert archive.state in (model.ArchiveState.ARCHIVING, model.ArchiveState.VERIFYING)
        assert world.get_volume("v").state is model.VolumeState.SNAPSHOT_IN_PROGRESS
        held.go_on()
        world.until(lambda: world.get_snapshot("s").state is model.SnapshotState.COMPLETED)


def test_a_cancelled_creation_leaves_no_volume(world: worlds.World) -> None:
    before = _archived_and_gone(world)
    held = faults.Held("restore.before_publish")
    with faults.observing(held):
        _, operation = world.service.volumes.create(worlds.request("CreateVolume"), "e", "c", worlds.clone_of("s"))
        held.reach()
        world.service.operations.cancel("e", operation.id)
        held.go_on()
        assert _reason(world.ended(operation)) == "OPERATION_CANCELLED"
    with pytest.raises(errors.NotFound):
        world.get_volume("c")
    world.clone("c", "s")
    assert world.volume_bytes("c") == before


def test_work_that_waits_for_a_thread_can_be_cancelled(world: worlds.World) -> None:
    _archived_and_gone(world)
    held = faults.Held("restore.before_publish")
    with faults.observing(held):
        begun = [
            world.service.volumes.create(worlds.request("CreateVolume"), "e", f"c{number}", worlds.clone_of("s"))[1]
            for number in range(4)
        ]
        held.reach()
        world.service.operations.cancel("e", begun[3].id)
        held.go_on()
        assert _reason(world.ended(begun[3])) == "OPERATION_CANCELLED"
        for operation in begun[:3]:
            world.succeed(operation)
    with pytest.raises(errors.NotFound):
        world.get_volume("c3")


def test_a_cancelled_revert_leaves_the_volume_as_it_was(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    world.archived("s", "v")
    world.write("v", 0, NOISE[::-1])
    before = world.volume_bytes("v")
    world.archived("later", "v")
    held = faults.Held("revert.before_commit")
    with faults.observing(held):
        revert = threading.Thread(target=_try_revert, args=(world,))
        revert.start()
        held.reach()
        (operation,) = world.service.operations.list(model.Query("e", "me", 10, "", "done = false", "")).items
        assert operation.method == "RevertVolume"
        assert world.get_volume("v").state is model.VolumeState.REVERTING
        world.service.operations.cancel("e", operation.id)
        held.go_on()
        revert.join()
    world.until(lambda: world.get_volume("v").state is model.VolumeState.READY)
    assert world.volume_bytes("v") == before


def _try_revert(world: worlds.World) -> None:
    try:
        world.service.volumes.revert(worlds.request("RevertVolume"), "e", "v", "s", "")
    except errors.OperationCancelled:
        return


def test_cancelling_a_regular_snapshot_removes_it(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    held = faults.Held("archive.before-proof")
    with faults.observing(held):
        snapshot = world.snapshot("s", "v", rapid=False)
        held.reach()
        (operation,) = world.service.operations.list(model.Query("e", "me", 10, "", "done = false", "")).items
        assert operation.target_uid == snapshot.uid
        world.service.operations.cancel("e", operation.id)
        held.go_on()
        assert _reason(world.ended(operation)) == "OPERATION_CANCELLED"
    with pytest.raises(errors.NotFound):
        world.get_snapshot("s")
    assert world.get_volume("v").state is model.VolumeState.READY


def test_cancelling_an_early_archiving_has_the_snapshot_wait_again(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    world.snapshot("s", "v", rapid=True)
    held = faults.Held("archive.before-proof")
    with faults.observing(held):
        _, operation = world.service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", "s", "")
        held.reach()
        world.service.operations.cancel("e", operation.id)
        held.go_on()
        assert _reason(world.ended(operation)) == "OPERATION_CANCELLED"
        world.until(lambda: world.get_snapshot("s").archive.state is model.ArchiveState.SCHEDULED)
    snapshot = world.get_snapshot("s")
    assert (snapshot.rapid, snapshot.archive.next_attempt) == (True, snapshot.archive.due)
    world.pass_time(hours=24)
    world.until(lambda: not world.get_snapshot("s").rapid)


def test_cancelling_what_is_done_changes_nothing(world: worlds.World) -> None:
    world.volume("v")
    (operation,) = world.service.operations.list(model.Query("e", "me", 10, "", "", "")).items
    world.service.operations.cancel("e", operation.id)
    assert world.get_volume("v").state is model.VolumeState.READY


def test_only_what_is_done_is_forgotten(world: worlds.World) -> None:
    world.volume("v")
    (made,) = world.service.operations.list(model.Query("e", "me", 10, "", "", "")).items
    held = faults.Held("archive.before-proof")
    with faults.observing(held):
        world.snapshot("s", "v", rapid=False)
        held.reach()
        (running,) = world.service.operations.list(model.Query("e", "me", 10, "", "done = false", "")).items
        with pytest.raises(errors.WrongState):
            world.service.operations.delete("e", running.id)
        held.go_on()
        world.succeed(running)
    world.service.operations.delete("e", made.id)
    with pytest.raises(errors.NotFound):
        world.service.operations.get("e", made.id)


def test_operations_are_forgotten_after_a_month(world: worlds.World) -> None:
    world.volume("v")
    world.pass_time(days=30, seconds=1)
    world.until(lambda: not world.rows("SELECT 1 FROM operations"))


def test_a_run_that_is_cancelled_before_it_begins_gives_its_place_to_the_next(world: worlds.World) -> None:
    world.restart(dataclasses.replace(world.settings, archive_workers=2))
    both, parked = threading.Barrier(3), threading.Event()

    def meet(operation: fsops.Operation) -> None:
        if operation.target == "archive_run.before_commit":
            both.wait(faults.PATIENCE_S)
            assert parked.wait(faults.PATIENCE_S)

    with faults.observing(meet):
        for volume_id in ("v", "w"):
            world.volume(volume_id)
            world.write(volume_id, 0, NOISE)
            world.snapshot(f"of-{volume_id}", volume_id, rapid=False)
        both.wait(faults.PATIENCE_S)
        stopping = threading.Thread(target=world.stop)
        stopping.start()
        # All work is told to park before this thread ends.
        world.until(lambda: not any(thread.name == "archiver" for thread in threading.enumerate()))
        parked.set()
        stopping.join()
    assert len(world.rows("SELECT 1 FROM intents")) == 2
    # Now there is a place for one of them.
    held = faults.Held("archive_run.before_commit")
    with faults.observing(held):
        world.restart(dataclasses.replace(world.settings, archive_workers=1))
        held.reach()
        _, deletion = world.service.snapshots.delete(worlds.request("DeleteSnapshot"), "e", "of-w", "", False)
        assert deletion is not None
        world.succeed(deletion)
        held.go_on()
    world.until(lambda: world.get_snapshot("of-v").state is model.SnapshotState.COMPLETED)
    world.archived("again", "w")
