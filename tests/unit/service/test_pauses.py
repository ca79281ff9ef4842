"""Pausing and resuming the background work."""

import dataclasses
import datetime
import random
import threading

import pytest

from snapd import errors, fsops, model
from snapd.service import work
from tests.unit.service import faults
from tests.unit.service import world as worlds

NOISE = random.Random(4).randbytes(8 * worlds.CLUSTER)
ARCHIVER = (model.Worker.ARCHIVER,)
KEEPER = (model.Worker.KEEPER,)


def _pause(
    world: worlds.World,
    *workers: model.Worker,
    duration: datetime.timedelta | None = None,
    request: model.Request | None = None,
) -> list[work.WorkState]:
    return world.service.work.pause(request or worlds.request("PauseWork", ""), workers, "why", duration)


def _resume(world: worlds.World, *workers: model.Worker) -> list[work.WorkState]:
    return world.service.work.resume(worlds.request("ResumeWork", ""), workers)


def _volume(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)


def _completed(world: worlds.World) -> bool:
    return world.get_snapshot("s").state is model.SnapshotState.COMPLETED


def test_while_the_archiver_is_paused_what_is_asked_for_waits_and_says_so(world: worlds.World) -> None:
    _volume(world)
    (archiver, keeper) = _pause(world, *ARCHIVER)
    assert archiver.pause == model.Pause("why", "me", worlds.START, None)
    assert keeper.pause is None
    world.snapshot("rapid", "v", rapid=True)
    world.snapshot("s", "v", rapid=False)
    _, operation = world.service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", "rapid", "")
    assert world.get_volume("v").state is model.VolumeState.SNAPSHOT_IN_PROGRESS
    for snapshot_id in ("rapid", "s"):
        archive = world.get_snapshot(snapshot_id).archive
        assert (archive.state, archive.paused, archive.attempts) == (model.ArchiveState.SCHEDULED, True, 0)
    assert world.service.work.states()[0].waiting == 2
    _resume(world, *ARCHIVER)
    world.succeed(operation)
    world.until(lambda: _completed(world))
    assert world.service.work.states()[0].waiting == 0
    assert not world.get_snapshot("s").archive.paused


def test_what_is_not_due_is_not_called_paused(world: worlds.World) -> None:
    _volume(world)
    _pause(world)
    world.snapshot("s", "v", rapid=True)
    assert not world.get_snapshot("s").archive.paused
    world.pass_time(hours=24)
    assert world.get_snapshot("s").archive.paused
    _resume(world)


def test_a_run_under_way_is_parked_and_what_it_stored_is_found_again(world: worlds.World) -> None:
    _volume(world)
    held = faults.Held("archive.pack-finished")
    with faults.observing(held):
        world.snapshot("s", "v", rapid=False)
        held.reach()
        assert world.service.work.states()[0].running == 1
        _pause(world, *ARCHIVER)
        held.go_on()
        world.until(lambda: world.get_snapshot("s").archive.state is model.ArchiveState.SCHEDULED)
    archive = world.get_snapshot("s").archive
    assert (archive.attempts, archive.error, archive.paused) == (1, None, True)
    assert world.service.work.states()[0].running == 0
    assert not world.rows("SELECT 1 FROM intents")
    packs = set(world.archive_files("hosts"))
    _resume(world)
    world.until(lambda: _completed(world))
    assert packs <= set(world.archive_files("hosts"))
    assert world.get_snapshot("s").archive.attempts == 2
    assert world.snapshot_bytes("s") == world.volume_bytes("v")


def test_what_a_parked_run_published_goes_with_its_snapshot_though_the_archive_was_away(world: worlds.World) -> None:
    _volume(world)
    held = faults.Held("archive_run.before_commit")
    with faults.observing(held):
        world.snapshot("s", "v", rapid=True)
        world.pass_time(hours=24)
        held.reach()
        _pause(world, *ARCHIVER)
        held.go_on()
        world.until(lambda: world.get_snapshot("s").archive.state is model.ArchiveState.SCHEDULED)
    uid = world.get_snapshot("s").uid
    assert uid in str(world.archive_files("hosts"))
    archive = world.settings.archive_path
    archive.rename(archive.with_name("elsewhere"))
    _, deletion = world.service.snapshots.delete(worlds.request("DeleteSnapshot"), "e", "s", "", allow_missing=False)
    assert deletion is not None
    problem = world.ended(deletion).error
    assert problem is not None
    assert problem.reason == errors.ArchiveUnreachable.reason
    archive.with_name("elsewhere").rename(archive)
    world.delete_snapshot("s")
    assert uid not in str(world.archive_files("hosts"))
    _resume(world)


def test_a_pause_outlives_a_restart(world: worlds.World) -> None:
    _volume(world)
    _pause(world)
    world.snapshot("s", "v", rapid=False)
    world.restart()
    assert [state.pause is not None for state in world.service.work.states()] == [True, True]
    assert world.get_snapshot("s").archive.paused
    _resume(world)
    world.until(lambda: _completed(world))


def test_a_run_that_was_cut_off_goes_back_into_the_queue_of_a_daemon_that_is_paused(world: worlds.World) -> None:
    _volume(world)
    reached, go_on = threading.Event(), threading.Event()

    def hold(operation: fsops.Operation) -> None:
        if operation.target == "archive.before-proof":
            reached.set()
            assert go_on.wait(faults.PATIENCE_S)

    with faults.observing(hold):
        world.snapshot("s", "v", rapid=False)
        assert reached.wait(faults.PATIENCE_S)
        stopping = threading.Thread(target=world.stop)
        stopping.start()
        go_on.set()
        stopping.join()
    assert world.rows("SELECT kind FROM intents")
    world.open()
    _pause(world, *ARCHIVER)
    world.service.start()
    world.until(lambda: world.get_snapshot("s").archive.state is model.ArchiveState.SCHEDULED)
    assert not world.rows("SELECT kind FROM intents")
    _resume(world)
    world.until(lambda: _completed(world))


def test_a_pause_ends_when_its_time_is_over(world: worlds.World) -> None:
    _volume(world)
    _pause(world, duration=datetime.timedelta(hours=2))
    world.snapshot("s", "v", rapid=False)
    world.pass_time(hours=1, minutes=59)
    assert world.get_snapshot("s").archive.paused
    world.pass_time(minutes=1)
    world.until(lambda: _completed(world))
    assert all(state.pause is None for state in world.service.work.states())


def test_a_new_pause_takes_the_place_of_the_one_before(world: worlds.World) -> None:
    _pause(world, duration=datetime.timedelta(hours=2))
    _pause(world, *KEEPER)
    world.pass_time(hours=3)
    archiver, keeper = world.service.work.states()
    assert archiver.pause is None
    assert keeper.pause is not None
    assert keeper.pause.until is None
    _resume(world)


def test_what_is_resumed_without_being_paused_stays_as_it_is(world: worlds.World) -> None:
    assert all(state.pause is None for state in _resume(world))


def test_the_retry_of_a_pause_does_not_pause_what_was_resumed_meanwhile(world: worlds.World) -> None:
    request = worlds.request("PauseWork", "")
    assert _pause(world, request=request)[0].pause is not None
    _resume(world)
    assert _pause(world, request=request)[0].pause is None
    other = dataclasses.replace(request, digest=b"other")
    with pytest.raises(errors.RequestIdReused):
        _pause(world, request=other)


def test_a_snapshot_can_be_deleted_and_its_archiving_cancelled_while_it_waits(world: worlds.World) -> None:
    _volume(world)
    world.snapshot("rapid", "v", rapid=True)
    _pause(world, *ARCHIVER)
    _, operation = world.service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", "rapid", "")
    world.snapshot("s", "v", rapid=False)
    world.delete_snapshot("s")
    assert world.get_volume("v").state is model.VolumeState.READY
    world.service.operations.cancel("e", operation.id)
    archive = world.get_snapshot("rapid").archive
    assert (archive.next_attempt, archive.paused) == (archive.due, False)
    _resume(world)


def test_the_keeper_merges_nothing_while_it_is_paused(world: worlds.World) -> None:
    _pause(world, *KEEPER)
    _volume(world)
    for number in range(3):
        world.snapshot(f"s{number}", "v", rapid=True)
        world.write("v", number * worlds.CLUSTER, NOISE[: worlds.CLUSTER])
    assert world.depth("v") == 4
    for number in range(2):
        world.delete_snapshot(f"s{number}")
    assert world.depth("v") == 4
    _resume(world, *KEEPER)
    world.until(lambda: world.depth("v") == 2)


def test_pauses_and_runs_that_meet_anywhere_leave_every_snapshot_archived(world: worlds.World) -> None:
    world.restart(dataclasses.replace(world.settings, archive_workers=2, max_chain_depth=32))
    source = random.Random(20261126)
    _volume(world)
    for round_ in range(15):
        world.write("v", 0, source.randbytes(worlds.CLUSTER))
        world.snapshot(f"s{round_}", "v", rapid=True, retention=datetime.timedelta(0))
        if source.random() < 0.7:
            _pause(world, *ARCHIVER)
        if source.random() < 0.7:
            _resume(world)
        if round_ == 10:
            world.restart()
    _resume(world)
    world.until(lambda: not world.rows("SELECT 1 FROM snapshots WHERE archive_state != 'ARCHIVED'"))
