"""Snapshots lent to be looked into."""

import contextlib
import pathlib

import pytest

from snapd import errors, model
from snapd.service.attachments import Shown
from tests import storagedaemons
from tests.unit.service import guests
from tests.unit.service import world as worlds

DATA = b"a" * guests.BLOCK


@pytest.fixture
def looked(lender: worlds.World) -> worlds.World:
    """Give a world whose volume has a snapshot `s` with DATA, and other data since."""
    lender.write("v", 0, DATA)
    lender.snapshot("s", "v", rapid=True)
    lender.write("v", 0, b"b" * guests.BLOCK)
    return lender


def _shown(world: worlds.World) -> Shown | None:
    return world.service.attachments.of(world.get_snapshot("s"))


def _attach(world: worlds.World) -> Shown:
    request, way = worlds.request("AttachSnapshot"), model.AttachmentWay.NBD
    snapshot, operation = world.service.snapshot_attachments.attach(request, "e", "s", way, model.Limits(), "")
    assert (operation.done, operation.error) == (True, None)
    assert world.service.snapshot_attachments.attach(request, "e", "s", way, model.Limits(), "")[0] == snapshot
    found = _shown(world)
    assert found is not None
    assert found.attachment.state is model.AttachmentState.ATTACHED
    return found


def _detach(world: worlds.World) -> None:
    world.service.snapshot_attachments.detach(worlds.request("DetachSnapshot"), "e", "s", "")
    assert _shown(world) is None


def test_what_a_snapshot_holds_can_be_read_and_not_written(looked: worlds.World) -> None:
    with guests.guest(_attach(looked)) as guest:
        assert guest.export.read_only
        assert guest.read(0, guests.BLOCK) == DATA
        assert guest.write(0, b"c" * guests.BLOCK) != 0
        with guests.guest(guests.attach(looked)) as writer:
            assert writer.write(0, b"d" * guests.BLOCK) == 0
        assert guest.read(0, guests.BLOCK) == DATA
        assert len(storagedaemons.found(looked.settings.live.exports_path)) == 2, "it is no part of an instance's group"
    _detach(looked)
    with pytest.raises(errors.WrongState):
        _detach(looked)
    assert looked.snapshot_bytes("s")[: guests.BLOCK] == DATA


def test_one_that_is_attached_is_neither_attached_again_nor_deleted(looked: worlds.World) -> None:
    _attach(looked)
    for call in (lambda: _attach(looked), lambda: looked.delete_snapshot("s")):
        with pytest.raises(errors.SnapshotAttached):
            call()
    # What stands beside it isn't held by it.
    looked.revert("v", "s")
    looked.delete_volume("v")
    _detach(looked)
    looked.delete_snapshot("s")


def test_its_layer_stays_until_the_detach_though_it_is_archived(looked: worlds.World) -> None:
    looked.delete_volume("v")
    with guests.guest(_attach(looked)) as guest:
        looked.service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", "s", "")
        looked.until(lambda: looked.get_snapshot("s").archive.state is model.ArchiveState.ARCHIVED)
        looked.restart()
        assert guest.read(0, guests.BLOCK) == DATA
        looked.until(looked.idle)
        assert len(looked.rows("SELECT 1 FROM layers")) == 1
    _detach(looked)
    looked.until(lambda: not looked.rows("SELECT 1 FROM layers"))
    with pytest.raises(errors.WrongState, match="in the archive alone"):
        _attach(looked)
    assert looked.snapshot_bytes("s")[: guests.BLOCK] == DATA


def test_a_death_is_mended_since_nothing_can_be_lost(looked: worlds.World) -> None:
    attached = _attach(looked)
    guests.kill(looked)
    looked.until(lambda: guests.is_served(attached))
    with guests.guest(attached) as guest:
        assert guest.read(0, guests.BLOCK) == DATA


def test_one_that_crashed_while_we_were_away_keeps_its_layer_and_is_attached_elsewhere(looked: worlds.World) -> None:
    attached = _attach(looked)
    looked.stop()
    guests.kill(looked)
    looked.start()
    found = _shown(looked)
    assert found is not None
    assert found.attachment.state is model.AttachmentState.CRASHED
    assert not pathlib.Path(_attach(looked).socket).is_relative_to(pathlib.Path(attached.socket).parent)
    with contextlib.closing(guests.process(looked)) as process:
        assert process.is_alive()
    guests.kill(looked)
    _detach(looked)


def test_an_attach_that_is_refused_leaves_what_a_crash_left(looked: worlds.World) -> None:
    attached = _attach(looked)
    looked.stop()
    guests.kill(looked)
    looked.start()
    found = _shown(looked)
    assert found is not None
    assert found.attachment.state is model.AttachmentState.CRASHED
    folder = pathlib.Path(attached.socket).parent
    assert folder.is_dir()
    with pytest.raises(errors.EtagMismatch):
        looked.service.snapshot_attachments.attach(
            worlds.request("AttachSnapshot"), "e", "s", model.AttachmentWay.NBD, model.UNLIMITED, "another"
        )
    assert folder.is_dir()
    _attach(looked)
    assert not folder.exists()
