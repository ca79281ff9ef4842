"""Stores that fail or are full, at the worst moments."""

import contextlib
import errno
import functools
import os
import random
import shutil
import threading
from collections.abc import Callable

import pytest

from snapd import errors, fsops, model
from snapd.service.snapshots import SnapshotSpec
from tests.unit.service import world as worlds

CLUSTER = worlds.CLUSTER
NOISE = random.Random(1).randbytes(8 * CLUSTER)
RAPID = SnapshotSpec(True, "", {}, None)

Observer = Callable[[fsops.Operation], None]


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _fail(code: int, *names: str, under: str = "") -> Observer:
    """Fail every operation with one of the names on a path that holds `under`."""

    def strike(operation: fsops.Operation) -> None:
        if operation.name in names and under in operation.target:
            raise _error(code)

    return strike


def _fail_at_point(code: int, point: str) -> Observer:
    """Fail at a point, once."""
    struck: list[fsops.Operation] = []

    def strike(operation: fsops.Operation) -> None:
        if operation.name == "point" and operation.target == point and not struck:
            struck.append(operation)
            raise _error(code)

    return strike


# --- archiving --------------------------------------------------------------------------------------------------------


def test_a_snapshot_stays_usable_while_its_archive_fails_and_is_tried_again_later(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    before = world.volume_bytes("v")
    world.snapshot("s", "v", rapid=True)
    with worlds.failing(_fail(errno.EIO, "create", under="/archive/")):
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
    with worlds.failing(_fail(errno.ENOSPC, "create", under="/archive/")):
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
    with worlds.failing(_fail(errno.EIO, "create", under="/archive/")):
        world.snapshot("s", "v", rapid=False)
        world.until(lambda: world.get_snapshot("s").archive.error is not None)
        world.delete_snapshot("s")
    assert world.get_volume("v").state is model.VolumeState.READY


def test_a_run_that_failed_after_its_commit_has_not_failed(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    with worlds.failing(_fail_at_point(errno.EIO, "archive_run.committed")):
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
    with worlds.failing(_fail(errno.EIO, "chmod")):
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
        worlds.failing(_fail(code, "create", under="/pool/")),
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

    with worlds.failing(rename):
        world.snapshot("s", "v", rapid=True)
    assert world.get_volume("v").instance == "i-7"


# --- writes -----------------------------------------------------------------------------------------------------------


def test_deleting_a_volume_after_a_failed_write_leaves_its_snapshot_alone(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    before = world.volume_bytes("v")
    write = world.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")
    write.data(16 * CLUSTER, NOISE)
    with worlds.failing(_fail(errno.EIO, "fdatasync", "fsync")), pytest.raises(errors.StorageFailed):
        write.finish()
    world.snapshot("s", "v", rapid=True)
    world.delete_volume("v")
    assert world.snapshot_bytes("s")[: 16 * CLUSTER] == before[: 16 * CLUSTER]


def test_a_stream_learns_that_a_capture_could_not_flush_what_it_wrote(world: worlds.World) -> None:
    world.volume("v")
    write = world.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")
    write.data(0, NOISE)
    with worlds.failing(_fail(errno.EIO, "fdatasync", "fsync")), pytest.raises(errors.StorageFailed):
        world.snapshot("s", "v", rapid=True)
    write.data(len(NOISE), NOISE)
    with pytest.raises(errors.StorageFailed):
        write.flush()
    with pytest.raises(errors.StorageFailed):
        write.finish()
    world.write("v", 0, NOISE)
    assert world.volume_bytes("v")[: len(NOISE)] == NOISE


def test_leaks_of_a_failed_write_are_mended_before_the_next(world: worlds.World) -> None:
    world.volume("v")
    write = world.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")
    write.data(0, NOISE)
    with worlds.failing(_fail(errno.ENOSPC, "fdatasync", "fsync")), pytest.raises(errors.StorageFull):
        write.finish()
    assert world.rows("SELECT 1 FROM intents WHERE kind = 'write'")
    world.write("v", 0, NOISE)
    assert not world.rows("SELECT 1 FROM intents")


def test_what_is_written_during_a_capture_is_in_the_snapshot_or_after_it(world: worlds.World) -> None:
    world.volume("v")
    write = world.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")
    write.data(0, NOISE)
    world.snapshot("s", "v", rapid=True)
    write.data(len(NOISE), NOISE)
    assert write.finish()[0].state is model.VolumeState.READY
    zeroes = bytes(worlds.SIZE - 2 * len(NOISE))
    assert world.snapshot_bytes("s") == NOISE + bytes(len(NOISE)) + zeroes
    assert world.volume_bytes("v") == NOISE + NOISE + zeroes


def test_a_volume_is_not_written_while_it_is_exported(world: worlds.World) -> None:
    world.volume("v")
    export = world.service.transfers.export_volume("e", "v")
    with pytest.raises(errors.WrongState, match="being exported"):
        world.write("v", 0, NOISE)
    export.close()
    export.close()
    world.write("v", 0, NOISE)


def test_an_export_survives_the_deletion_of_what_it_reads(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    before = world.volume_bytes("v")
    world.snapshot("s", "v", rapid=True)
    of_volume = world.service.transfers.export_volume("e", "v")
    of_snapshot = world.service.transfers.export_snapshot("e", "s")
    world.delete_volume("v")
    world.delete_snapshot("s")
    assert worlds.contents(of_snapshot) == before
    assert worlds.contents(of_volume) == before


# --- folds ------------------------------------------------------------------------------------------------------------


def _two_to_fold(world: worlds.World, *, up: bool) -> None:
    """Make two frozen layers of which the lower is to be folded, with little in it if the fold is to go up."""
    world.volume("v")
    world.write("v", 0, NOISE[:CLUSTER] if up else NOISE)
    world.snapshot("low", "v", rapid=True)
    world.write("v", 2 * CLUSTER, NOISE if up else NOISE[: CLUSTER // 2])
    world.snapshot("high", "v", rapid=True)


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_fold_leaves_the_contents_as_they_were(world: worlds.World, up: bool) -> None:
    _two_to_fold(world, up=up)
    before = world.snapshot_bytes("high")
    world.delete_snapshot("low")
    world.until(lambda: world.depth("v") == 2)
    assert world.snapshot_bytes("high") == before == world.volume_bytes("v")


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("point", ["fold.copied", "fold.relinked", "fold.before_commit", "fold.committed"])
def test_a_fold_that_failed_is_finished_in_a_later_round(world: worlds.World, up: bool, point: str) -> None:
    _two_to_fold(world, up=up)
    before = world.snapshot_bytes("high")
    with worlds.failing(_fail_at_point(errno.EIO, point)):
        world.delete_snapshot("low")
        world.until(lambda: bool(world.rows("SELECT 1 FROM intents WHERE kind = 'fold'")) or world.depth("v") == 2)
        assert world.snapshot_bytes("high") == before
        world.pass_time(minutes=6)
        world.until(lambda: world.depth("v") == 2)
    assert world.snapshot_bytes("high") == before


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_fold_without_room_leaves_no_leaks_once_it_is_finished(world: worlds.World, up: bool) -> None:
    _two_to_fold(world, up=up)
    before = world.snapshot_bytes("high")
    failed = threading.Event()

    def strike(operation: fsops.Operation) -> None:
        if threading.current_thread().name == "keeper" and operation.name == "fdatasync":
            failed.set()
            raise _error(errno.ENOSPC)

    with worlds.failing(strike):
        world.delete_snapshot("low")
        assert failed.wait(worlds.PATIENCE_S)
        assert world.snapshot_bytes("high") == before
    world.pass_time(minutes=6)
    world.until(lambda: world.depth("v") == 2)
    assert world.snapshot_bytes("high") == before


def test_what_goes_while_its_fold_waits_is_let_go_to_the_bottom(world: worlds.World) -> None:
    _two_to_fold(world, up=True)
    world.write("v", 0, NOISE[:512])
    world.snapshot("top", "v", rapid=True)
    with worlds.failing(_fail_at_point(errno.EIO, "fold.copied")):
        world.delete_snapshot("high")
        world.until(lambda: bool(world.rows("SELECT 1 FROM intents WHERE kind = 'fold'")))
        with contextlib.suppress(errors.NotFound):
            world.delete_snapshot("top")
        world.delete_volume("v")
        world.delete_snapshot("low")
    world.pass_time(minutes=6)
    world.until(lambda: not world.rows("SELECT 1 FROM layers"))


def test_a_fold_is_put_off_while_somebody_reads(world: worlds.World) -> None:
    _two_to_fold(world, up=False)
    export = world.service.transfers.export_snapshot("e", "high")
    before = worlds.contents(world.service.transfers.export_snapshot("e", "high"))
    world.delete_snapshot("low")
    pieces = export.pieces(0)
    first = next(pieces)
    assert world.depth("v") == 3
    rest = b"".join(bytes(piece.length) if piece.data is None else piece.data for piece in [first, *pieces])
    export.close()
    assert rest == before
    world.until(lambda: world.depth("v") == 2)


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
    with worlds.failing(_fail_at_point(errno.ENOSPC, "restore.before_publish")):
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
    with worlds.failing(_fail_at_point(errno.EIO, "revert.before_commit")):
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

    with worlds.failing(delete):
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
    with worlds.failing(_fail_at_point(errno.EIO, "delete_snapshot.manifest_removed")):
        _, operation = world.service.snapshots.delete(worlds.request("DeleteSnapshot"), "e", "s", "", False)
        assert operation is not None
        assert world.ended(operation).error is not None
    assert world.get_snapshot("s").state is model.SnapshotState.FAILED
    world.delete_snapshot("s")
    assert world.get_volume("v").state is model.VolumeState.READY


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_an_archive_run_is_parked_by_a_stop_and_goes_on_after_the_start(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    reached, go_on = threading.Event(), threading.Event()

    def hold(operation: fsops.Operation) -> None:
        if operation.target == "archive.before-proof" and not reached.is_set():
            reached.set()
            assert go_on.wait(worlds.PATIENCE_S)

    with worlds.failing(hold):
        world.snapshot("s", "v", rapid=False)
        assert reached.wait(worlds.PATIENCE_S)
        stopping = threading.Thread(target=world.stop)
        stopping.start()
        go_on.set()
        stopping.join()
    world.start()
    world.until(lambda: world.get_snapshot("s").state is model.SnapshotState.COMPLETED)
    assert world.snapshot_bytes("s") == world.volume_bytes("v")


def test_a_service_that_was_never_started_can_be_stopped(world: worlds.World) -> None:
    world.stop()
    world.open()
    world.stop()
    world.start()


def test_a_head_that_can_not_be_flushed_does_not_keep_the_service_from_stopping(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    write = world.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")
    write.data(len(NOISE), NOISE)
    with worlds.failing(_fail(errno.EIO, "fdatasync", "fsync")):
        world.stop()
    assert world.start().recovered.finished == ["write"]
    assert world.volume_bytes("v")[: len(NOISE)] == NOISE


def test_a_service_that_can_not_be_opened_leaves_nothing_open(world: worlds.World) -> None:
    world.stop()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    shutil.rmtree(world.settings.pool_path / "staging")
    with worlds.failing(_fail(errno.EIO, "mkdir")), pytest.raises(errors.StorageFailed):
        world.open()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, files)
    world.start()


def test_space_is_counted_while_files_come_and_go(world: worlds.World) -> None:
    world.volume("v")
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            world.snapshot("s", "v", rapid=True)
            world.delete_snapshot("s")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(20):
            capacity = world.service.capacity()
            assert 0 < capacity.pool_free <= capacity.pool_total
            assert capacity.pool_used > 0
    finally:
        stop.set()
        thread.join()


def test_opening_twice_changes_nothing_the_second_time(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    world.pass_time(days=2)
    world.until(lambda: not world.get_snapshot("s").rapid)
    world.until(world.idle)
    world.stop()
    before = [
        tuple(row) for row in world.rows("SELECT * FROM layers UNION ALL SELECT uid, id, 0, state, 0 FROM snapshots")
    ]
    service = world.open()
    assert (service.recovered.finished, service.recovered.failed, service.recovered.resumed) == ([], [], [])
    assert service.recovered.strays == []
    after = [
        tuple(row) for row in world.rows("SELECT * FROM layers UNION ALL SELECT uid, id, 0, state, 0 FROM snapshots")
    ]
    assert after == before
    world.stop()
    world.start()


def test_a_stray_is_reported_and_left_alone(world: worlds.World) -> None:
    world.stop()
    stray = world.settings.pool_path / "00" / "notes.txt"
    stray.write_text("mine")
    assert world.open().recovered.strays == [str(stray)]
    assert stray.read_text() == "mine"
    stray.unlink()
    world.stop()
    world.start()
