"""Stopping, opening again, and what is found then."""

import errno
import os
import random
import shutil
import threading

import pytest

from snapd import errors, fsops, model
from snapd.service import recovery
from tests.unit.service import faults
from tests.unit.service import world as worlds

CLUSTER = worlds.CLUSTER
NOISE = random.Random(1).randbytes(8 * CLUSTER)


def test_an_archive_run_is_parked_by_a_stop_and_goes_on_after_the_start(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    reached, go_on = threading.Event(), threading.Event()

    def hold(operation: fsops.Operation) -> None:
        if operation.target == "archive.before-proof" and not reached.is_set():
            reached.set()
            assert go_on.wait(faults.PATIENCE_S)

    with faults.observing(hold):
        world.snapshot("s", "v", rapid=False)
        assert reached.wait(faults.PATIENCE_S)
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
    with faults.observing(faults.fail(errno.EIO, "fdatasync", "fsync")):
        world.stop()
    (recovered,) = world.start().recovered.changes
    assert (recovered.intent.kind, recovered.outcome) == ("write", recovery.Outcome.FINISHED)
    assert recovered.target == "environments/e/volumes/v"
    assert world.volume_bytes("v")[: len(NOISE)] == NOISE


def test_a_service_that_can_not_be_opened_leaves_nothing_open(world: worlds.World) -> None:
    world.stop()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    shutil.rmtree(world.settings.pool_path / "staging")
    with faults.observing(faults.fail(errno.EIO, "mkdir")), pytest.raises(errors.StorageFailed):
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
    assert service.recovered.changes == ()
    after = [
        tuple(row) for row in world.rows("SELECT * FROM layers UNION ALL SELECT uid, id, 0, state, 0 FROM snapshots")
    ]
    assert after == before
    world.stop()
    world.start()
