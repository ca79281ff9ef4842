"""Writes and exports: what is durable, what is said when it is not, and who has to wait for whom."""

import errno
import random

import pytest

from snapd import errors, model
from tests.unit.service import faults
from tests.unit.service import world as worlds

CLUSTER = worlds.CLUSTER
NOISE = random.Random(1).randbytes(8 * CLUSTER)


def test_deleting_a_volume_after_a_failed_write_leaves_its_snapshot_alone(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    before = world.volume_bytes("v")
    write = world.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")
    write.data(16 * CLUSTER, NOISE)
    with faults.observing(faults.fail(errno.EIO, "fdatasync", "fsync")), pytest.raises(errors.StorageFailed):
        write.finish()
    world.snapshot("s", "v", rapid=True)
    world.delete_volume("v")
    assert world.snapshot_bytes("s")[: 16 * CLUSTER] == before[: 16 * CLUSTER]


def test_a_stream_learns_that_a_capture_could_not_flush_what_it_wrote(world: worlds.World) -> None:
    world.volume("v")
    write = world.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")
    write.data(0, NOISE)
    with faults.observing(faults.fail(errno.EIO, "fdatasync", "fsync")), pytest.raises(errors.StorageFailed):
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
    with faults.observing(faults.fail(errno.ENOSPC, "fdatasync", "fsync")), pytest.raises(errors.StorageFull):
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
