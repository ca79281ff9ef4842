"""Snapshots of attached volumes, taken while a guest writes on."""

import contextlib
import dataclasses
import signal

import pytest

from snapd import errors, model
from tests import storagedaemons
from tests.unit.service import guests
from tests.unit.service import world as worlds


def test_each_snapshot_holds_the_writes_up_to_one_and_none_beyond_it(lender: worlds.World) -> None:
    load = guests.Load(guests.attach(lender))
    bounds = {}
    with load.running():
        for number in range(6):
            load.wait(20)
            before = load.acknowledged
            lender.snapshot(f"s-{number}", "v", rapid=number % 3 != 2)
            # One more may be under way, and not be counted yet.
            bounds[f"s-{number}"] = (before, load.acknowledged + 1)
            if number % 3 == 2:
                lender.until(lambda: lender.get_volume("v").state is model.VolumeState.READY)
        load.wait(20)
    for name, (least, most) in bounds.items():
        last = guests.require_prefix(lender.snapshot_bytes(name), least)
        assert last <= most
    guests.detach(lender)
    assert guests.require_prefix(lender.volume_bytes("v"), load.acknowledged) == load.acknowledged
    assert lender.get_snapshot("s-2").archive.state is model.ArchiveState.ARCHIVED


def test_a_snapshot_of_a_live_volume_can_be_cloned_and_reverted_to(lender: worlds.World) -> None:
    attached = guests.attach(lender)
    with guests.guest(attached) as guest:
        assert guest.write(0, b"a" * guests.BLOCK) == 0
        lender.snapshot("s", "v", rapid=True)
        assert guest.write(0, b"b" * guests.BLOCK) == 0
        lender.clone("c", "s")
        with guests.guest(guests.attach(lender, "c")) as other:
            assert other.read(0, guests.BLOCK) == b"a" * guests.BLOCK
            assert other.write(0, b"c" * guests.BLOCK) == 0
        assert guest.read(0, guests.BLOCK) == b"b" * guests.BLOCK
    guests.detach(lender)
    lender.revert("v", "s")
    assert lender.volume_bytes("v")[: guests.BLOCK] == b"a" * guests.BLOCK
    guests.detach(lender, "c")
    assert lender.volume_bytes("c")[: guests.BLOCK] == b"c" * guests.BLOCK


def test_a_restart_after_snapshots_finds_the_new_heads(lender: worlds.World) -> None:
    with guests.guest(guests.attach(lender)) as guest:
        for name in ("one", "two"):
            assert guest.write(0, name[0].encode() * guests.BLOCK) == 0
            lender.snapshot(name, "v", rapid=True)
        lender.restart()
        assert guests.state(lender) is model.AttachmentState.ATTACHED
        assert guest.write(0, b"e" * guests.BLOCK) == 0
        lender.snapshot("three", "v", rapid=True)
    assert [lender.snapshot_bytes(name)[:1] for name in ("one", "two", "three")] == [b"o", b"t", b"e"]


def test_layers_that_were_frozen_under_a_guest_are_folded_when_it_is_gone(lender: worlds.World) -> None:
    attached = guests.attach(lender)
    with guests.guest(attached) as guest:
        for name in ("low", "high"):
            assert guest.write(0, name[0].encode() * guests.BLOCK) == 0
            lender.snapshot(name, "v", rapid=True)
        lender.delete_snapshot("low")
        lender.restart()
        lender.pass_time(minutes=30)
        assert guest.read(0, guests.BLOCK) == b"h" * guests.BLOCK
        assert lender.depth("v") == 3
    guests.detach(lender)
    lender.until(lambda: lender.depth("v") == 2)
    assert lender.snapshot_bytes("high")[: guests.BLOCK] == b"h" * guests.BLOCK


def test_a_volume_that_is_only_read_can_be_captured_too(lender: worlds.World) -> None:
    lender.write("v", 0, b"a" * guests.BLOCK)
    with guests.guest(guests.attach(lender, spec=dataclasses.replace(guests.SPEC, read_only=True))) as guest:
        lender.snapshot("s", "v", rapid=True)
        assert guest.read(0, guests.BLOCK) == b"a" * guests.BLOCK
    assert lender.snapshot_bytes("s")[: guests.BLOCK] == b"a" * guests.BLOCK


def test_a_volume_that_crashed_is_captured_as_it_was_left(lender: worlds.World) -> None:
    with guests.guest(guests.attach(lender)) as guest:
        assert guest.write(0, b"a" * guests.BLOCK) == 0
    lender.stop()
    guests.kill(lender)
    lender.start()
    lender.snapshot("s", "v", rapid=True)
    assert guests.state(lender) is model.AttachmentState.CRASHED
    assert lender.snapshot_bytes("s")[: guests.BLOCK] == b"a" * guests.BLOCK


def test_a_capture_that_the_process_does_not_answer_is_decided_once_it_is_heard(lender: worlds.World) -> None:
    with guests.guest(guests.attach(lender)) as guest:
        assert guest.write(0, b"a" * guests.BLOCK) == 0
        with contextlib.closing(guests.process(lender)) as process:
            process.signal(signal.SIGSTOP)
            try:
                with pytest.raises(errors.StorageDaemonBusy):
                    lender.snapshot("s", "v", rapid=True)
                assert guests.state(lender) is model.AttachmentState.STALLED
            finally:
                process.signal(signal.SIGCONT)
        assert guest.write(0, b"b" * guests.BLOCK) == 0
        lender.until(lambda: lender.idle() and guests.state(lender) is model.AttachmentState.ATTACHED)
        lender.snapshot("later", "v", rapid=True)
    assert lender.snapshot_bytes("later")[: guests.BLOCK] == b"b" * guests.BLOCK
    assert len(storagedaemons.found(lender.settings.live.exports_path)) == 1


def test_a_snapshot_that_can_not_be_taken_leaves_the_guest_alone(lender: worlds.World) -> None:
    with guests.guest(guests.attach(lender)) as guest:
        lender.snapshot("s", "v", rapid=True)
        before = lender.rows("SELECT * FROM layers")
        with pytest.raises(errors.AlreadyExists):
            lender.snapshot("s", "v", rapid=True)
        lender.restart(worlds.without_room(lender.settings))
        with pytest.raises(errors.PoolFull):
            lender.snapshot("t", "v", rapid=True)
        assert lender.rows("SELECT * FROM layers") == before
        assert guest.write(0, b"a" * guests.BLOCK) == 0
