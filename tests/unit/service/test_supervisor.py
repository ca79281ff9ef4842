"""Storage daemons that die or hang while the daemon runs."""

import contextlib
import dataclasses
import signal

import pytest

from snapd import errors, model
from snapd.service import supervisor
from snapd.service.volumes import VolumeSpec
from tests import storagedaemons
from tests.unit.service import guests
from tests.unit.service import world as worlds

VOLATILE = dataclasses.replace(guests.SPEC, writethrough=False)


def _generation(lender: worlds.World, volume_id: str = "v") -> int:
    found = guests.shown(lender, volume_id)
    assert found is not None
    return found.generation


def test_one_that_dies_is_started_anew_on_the_same_socket(lender: worlds.World) -> None:
    attached = guests.attach(lender)
    with guests.guest(attached) as guest:
        assert guest.write(0, b"a" * guests.BLOCK) == 0
        guests.kill(lender)
        lender.until(lambda: _generation(lender) == 2)
    lender.until(lambda: guests.is_served(attached))
    with guests.guest(attached) as guest:
        assert guest.read(0, guests.BLOCK) == b"a" * guests.BLOCK
        assert guest.write(guests.BLOCK, b"b" * guests.BLOCK) == 0
        lender.snapshot("s", "v", rapid=True)
    assert guests.state(lender) is model.AttachmentState.ATTACHED
    guests.detach(lender)
    assert lender.snapshot_bytes("s") == lender.volume_bytes("v")


def test_nothing_that_was_answered_under_load_is_lost_by_a_death(lender: worlds.World) -> None:
    attached = guests.attach(lender)
    load = guests.Load(attached)
    with load.running():
        load.wait(50)
        lender.snapshot("s", "v", rapid=True)
        load.wait(50)
        guests.kill(lender)
    lender.until(lambda: guests.is_served(attached))
    guests.detach(lender)
    # The last write may have been done and not answered.
    assert load.acknowledged <= guests.require_prefix(lender.volume_bytes("v"), load.acknowledged)
    assert guests.require_prefix(lender.volume_bytes("v"), load.acknowledged) <= load.acknowledged + 1


def test_one_with_a_volatile_cache_has_crashed_and_comes_back_elsewhere(lender: worlds.World) -> None:
    attached = guests.attach(lender, spec=VOLATILE)
    guests.kill(lender)
    lender.until(lambda: guests.state(lender) is model.AttachmentState.CRASHED)
    assert not guests.is_served(attached)
    again = guests.attach(lender, spec=VOLATILE)
    assert again.socket != attached.socket
    assert again.generation == 1


def test_one_that_dies_again_and_again_stays_down(lender: worlds.World) -> None:
    attached = guests.attach(lender)
    for _ in range(supervisor.MOST_DEATHS - 1):
        guests.kill(lender)
        lender.until(lambda: guests.is_served(attached))
    assert _generation(lender) == supervisor.MOST_DEATHS
    guests.kill(lender)
    lender.until(lambda: guests.state(lender) is model.AttachmentState.CRASHED)
    assert not storagedaemons.found(lender.settings.live.exports_path)


def test_one_that_hung_is_heard_again_without_anybody_asking(lender: worlds.World) -> None:
    guests.attach(lender)
    with contextlib.closing(guests.process(lender)) as process:
        process.signal(signal.SIGSTOP)
        try:
            lender.restart()
            assert guests.state(lender) is model.AttachmentState.STALLED
            with pytest.raises(errors.StorageDaemonBusy):
                lender.service.attachments.detach(worlds.request("DetachVolume"), "e", "v", "", False)
        finally:
            process.signal(signal.SIGCONT)
    # What the call had to leave is finished by itself.
    lender.until(lambda: guests.shown(lender) is None)
    assert not storagedaemons.found(lender.settings.live.exports_path)


def test_a_capture_that_was_left_open_is_decided_before_its_group_is_started_anew(lender: worlds.World) -> None:
    for volume_id in ("root", "data"):
        spec = VolumeSpec("", {}, model.VolumeRole.DATA, "vm-1", worlds.SIZE, "")
        lender.service.volumes.create(worlds.request("CreateVolume"), "e", volume_id, spec)
    attached = guests.attach(lender, "root")
    with guests.guest(attached) as guest:
        assert guest.write(0, b"a" * guests.BLOCK) == 0
        with contextlib.closing(guests.process(lender)) as process:
            process.signal(signal.SIGSTOP)
            with pytest.raises(errors.StorageDaemonBusy):
                lender.snapshot("s", "root", rapid=True)
            guests.kill(lender)
    # Once it is gone there is only forward, whoever comes first: the supervisor, or a call about another volume.
    guests.attach(lender, "data")
    lender.until(lender.idle)
    assert lender.snapshot_bytes("s")[: guests.BLOCK] == b"a" * guests.BLOCK
    lender.until(lambda: guests.is_served(attached))
    with guests.guest(attached) as guest:
        assert guest.read(0, guests.BLOCK) == b"a" * guests.BLOCK
        assert guest.write(0, b"b" * guests.BLOCK) == 0
    assert [guests.state(lender, volume_id) for volume_id in ("root", "data")] == [model.AttachmentState.ATTACHED] * 2
    guests.detach(lender, "root")
    assert lender.volume_bytes("root")[: guests.BLOCK] == b"b" * guests.BLOCK
    assert lender.snapshot_bytes("s")[: guests.BLOCK] == b"a" * guests.BLOCK
