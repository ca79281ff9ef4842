"""Checks of volumes: verdicts are results, the files stand still meanwhile, and only the head is ever repaired."""

import errno
import os
import pathlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from snapd import errors, fsops
from snapd.qcow2.format import locks
from snapd.qcow2.reading.image import Image
from snapd.service import checking
from tests.unit.service import faults
from tests.unit.service import world as worlds

CLUSTER = worlds.CLUSTER
NOISE = random.Random(1).randbytes(4 * CLUSTER)


def verdicts(world: worlds.World, *, mend: bool = False) -> list[checking.LayerCheck]:
    with world.service.checks.begin("e", "v", mend=mend) as check:
        return list(iter(check.next, None))


def head_path(world: worlds.World) -> pathlib.Path:
    head = world.get_volume("v").head_layer
    assert head is not None
    return world.layer_path(head)


def leak(path: pathlib.Path) -> None:
    """Have a cluster counted as used to which nothing refers."""
    with Image.open(path) as image:
        table_offset, end = image.header.refcount_table_offset, image.file_size
    with path.open("r+b") as file:
        file.seek(table_offset)
        block_offset = int.from_bytes(file.read(8))
        cluster = -(-end // CLUSTER)
        file.seek(block_offset + 2 * cluster)
        file.write(b"\0\1")
        file.truncate((cluster + 1) * CLUSTER)


@contextmanager
def damaged(path: pathlib.Path, offset: int, data: bytes) -> Iterator[None]:
    mode = path.stat().st_mode
    path.chmod(0o600)
    before = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    try:
        yield
    finally:
        path.write_bytes(before)
        path.chmod(mode)


def test_every_file_of_a_volume_is_checked(world: worlds.World) -> None:
    world.volume("v")
    for number in range(3):
        world.write("v", number * CLUSTER, NOISE)
        world.snapshot(f"s{number}", "v", rapid=True)
    found = verdicts(world)
    assert [(each.depth, each.layers) for each in found] == [(depth, 4) for depth in range(4)]
    reports = [each.report for each in found]
    assert all(report is not None and report.clean for report in reports)
    assert [report.allocated_clusters for report in reports if report is not None] == [0, 4, 4, 4]


def test_leaks_are_told_and_repaired_when_asked(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    leak(head_path(world))
    (found,) = verdicts(world)
    assert found.report is not None
    assert (found.report.leaks, found.report.corruptions, found.leaks_fixed) == (1, 0, 0)
    (found,) = verdicts(world, mend=True)
    assert found.report is not None
    assert (found.report.clean, found.leaks_fixed) == (True, 1)
    (found,) = verdicts(world, mend=True)
    assert (found.leaks_fixed, found.corruptions_fixed) == (0, 0)
    world.write("v", 8 * CLUSTER, NOISE)
    assert world.volume_bytes("v")[: len(NOISE)] == NOISE


def test_wrong_refcounts_of_the_head_are_repaired(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    path = head_path(world)
    with Image.open(path) as image:
        table_offset = image.header.refcount_table_offset
        data_offset = int(image.block_map(0, CLUSTER).host[0])
    with path.open("r+b") as file:
        file.seek(table_offset)
        file.seek(int.from_bytes(file.read(8)) + 2 * (data_offset // CLUSTER))
        file.write(b"\0\0")
    (found,) = verdicts(world)
    assert found.report is not None
    assert found.report.corruptions > 0
    (found,) = verdicts(world, mend=True)
    assert found.report is not None
    assert found.report.clean
    assert found.corruptions_fixed > 0
    assert world.volume_bytes("v")[: len(NOISE)] == NOISE


def test_a_layer_below_is_never_repaired(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    frozen = head_path(world)
    world.snapshot("s", "v", rapid=True)
    before = frozen.read_bytes()
    mode = frozen.stat().st_mode
    frozen.chmod(0o600)
    leak(frozen)
    leaking = frozen.read_bytes()
    head, below = verdicts(world, mend=True)
    assert head.report is not None
    assert head.report.clean
    assert below.report is not None
    assert below.report.leaks == 1
    assert frozen.read_bytes() == leaking
    frozen.write_bytes(before)
    frozen.chmod(mode)


def test_a_file_that_is_no_image_any_more_is_a_result(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    frozen = head_path(world)
    world.snapshot("s", "v", rapid=True)
    with damaged(frozen, 0, b"gone"):
        head, below = verdicts(world)
    assert head.report is not None
    assert below.report is None
    assert "magic" in below.problem


def test_a_damaged_head_with_an_interrupted_write_is_a_result(world: worlds.World) -> None:
    world.volume("v")
    write = world.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")
    write.data(0, NOISE)
    with faults.observing(faults.fail(errno.ENOSPC, "fdatasync", "fsync")), pytest.raises(errors.StorageFull):
        write.finish()
    with damaged(head_path(world), 0, b"gone"):
        (found,) = verdicts(world, mend=True)
    assert found.report is None
    assert "magic" in found.problem
    (found,) = verdicts(world)
    assert found.report is not None
    assert found.report.clean
    assert not world.rows("SELECT 1 FROM intents")


def test_a_volume_is_not_written_while_it_is_checked(world: worlds.World) -> None:
    world.volume("v")
    write = world.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")
    write.data(0, NOISE)
    with world.service.checks.begin("e", "v", mend=False) as check:
        with pytest.raises(errors.WrongState, match="checked"):
            write.data(len(NOISE), NOISE)
        found = check.next()
        assert found is not None
        assert found.report is not None
        assert found.report.clean
        assert found.report.allocated_clusters == 4
    write.data(len(NOISE), NOISE)
    write.finish()
    assert world.volume_bytes("v")[: 2 * len(NOISE)] == NOISE + NOISE


def test_a_head_that_somebody_else_reads_is_not_repaired(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    leak(head_path(world))
    with world.service.transfers.export_volume("e", "v"), pytest.raises(errors.WrongState, match="another call"):
        verdicts(world, mend=True)
    assert verdicts(world, mend=True)[0].leaks_fixed == 1


def test_a_head_that_is_captured_meanwhile_is_not_repaired(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    leak(head_path(world))
    with world.service.checks.begin("e", "v", mend=True) as check:
        world.snapshot("s", "v", rapid=True)
        with pytest.raises(errors.WrongState):
            check.next()
    world.delete_volume("v")
    world.delete_snapshot("s")


def test_a_check_survives_the_deletion_of_what_it_reads(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)
    world.snapshot("s", "v", rapid=True)
    with world.service.checks.begin("e", "v", mend=False) as check:
        world.delete_volume("v")
        found = list(iter(check.next, None))
    assert [each.report is not None and each.report.clean for each in found] == [True, True]


def test_a_file_that_another_program_writes_is_busy(world: worlds.World) -> None:
    world.volume("v")
    fd = fsops.open_for_writing(head_path(world))
    try:
        locks.exclusive(fd, "head")
        with pytest.raises(errors.ImageBusy):
            verdicts(world)
    finally:
        os.close(fd)
    assert len(verdicts(world)) == 1


def test_what_is_not_there_cannot_be_checked(world: worlds.World) -> None:
    with pytest.raises(errors.NotFound):
        verdicts(world)
    world.volume("v")
    world.delete_volume("v")
    with pytest.raises(errors.NotFound):
        verdicts(world)
