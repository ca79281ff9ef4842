"""Volumes lent to guests by the real storage daemon, and taken back."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import stat
import threading
from collections.abc import Callable

import pytest

from snapd import clock, errors, model
from snapd.live import launcher, lending
from snapd.service.volumes import VolumeSpec
from tests import storagedaemons
from tests.unit.live.world import Guest
from tests.unit.service import guests
from tests.unit.service import world as worlds

NOBODY = launcher.Account(65534, 65534)


def _volume_of(lender: worlds.World, volume_id: str, instance: str) -> None:
    spec = VolumeSpec("", {}, model.VolumeRole.DATA, instance, worlds.SIZE, "")
    lender.service.volumes.create(worlds.request("CreateVolume"), "e", volume_id, spec)


def test_what_a_guest_wrote_is_in_the_volume_when_it_is_detached(lender: worlds.World) -> None:
    lender.write("v", 0, b"a" * guests.BLOCK)
    with guests.guest(guests.attach(lender)) as guest:
        assert guest.read(0, guests.BLOCK) == b"a" * guests.BLOCK
        assert guest.write(guests.BLOCK, b"b" * guests.BLOCK) == 0
    guests.detach(lender)
    assert lender.volume_bytes("v") == b"a" * guests.BLOCK + b"b" * guests.BLOCK + bytes(worlds.SIZE - 2 * guests.BLOCK)
    assert not storagedaemons.found(lender.settings.live.exports_path)


def test_a_volume_on_layers_shows_them_to_its_guest(lender: worlds.World) -> None:
    lender.write("v", 0, b"a" * guests.BLOCK)
    lender.snapshot("s", "v", rapid=True)
    clone = lender.clone("c", "s")
    assert clone.size_bytes == worlds.SIZE
    with guests.guest(guests.attach(lender, "v")) as first, guests.guest(guests.attach(lender, "c")) as second:
        assert first.write(0, b"b" * guests.BLOCK) == 0
        assert second.read(0, guests.BLOCK) == b"a" * guests.BLOCK
    guests.detach(lender, "v")
    assert lender.snapshot_bytes("s")[: guests.BLOCK] == b"a" * guests.BLOCK
    assert guests.state(lender, "c") is model.AttachmentState.ATTACHED


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda lender: lender.write("v", 0, bytes(512)), id="write"),
        pytest.param(lambda lender: lender.volume_bytes("v"), id="export"),
        pytest.param(lambda lender: lender.service.checks.begin("e", "v", mend=True), id="check"),
        pytest.param(lambda lender: lender.revert("v", "s"), id="revert"),
        pytest.param(lambda lender: lender.delete_volume("v"), id="delete"),
        pytest.param(guests.attach, id="attach"),
    ],
)
def test_what_needs_the_volume_to_itself_is_refused(
    lender: worlds.World, call: Callable[[worlds.World], object]
) -> None:
    lender.snapshot("s", "v", rapid=True)
    attached = guests.attach(lender)
    before = (
        lender.rows("SELECT * FROM volumes"),
        lender.rows("SELECT * FROM intents"),
        lender.rows("SELECT * FROM layers"),
    )
    with pytest.raises(errors.VolumeAttached) as refused:
        call(lender)
    assert refused.value.name == "environments/e/volumes/v"
    assert before == (
        lender.rows("SELECT * FROM volumes"),
        lender.rows("SELECT * FROM intents"),
        lender.rows("SELECT * FROM layers"),
    )
    with guests.guest(attached) as guest:
        assert guest.write(0, b"c" * guests.BLOCK) == 0


def test_a_stream_of_writes_ends_with_the_attach(lender: worlds.World) -> None:
    with contextlib.closing(lender.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")) as write:
        write.data(0, b"a" * guests.BLOCK)
        attached = guests.attach(lender)
        with pytest.raises(errors.VolumeAttached):
            write.data(guests.BLOCK, b"b" * guests.BLOCK)
    with guests.guest(attached) as guest:
        assert guest.read(0, 2 * guests.BLOCK) == b"a" * guests.BLOCK + bytes(guests.BLOCK)


def test_a_volume_that_is_read_by_a_call_is_not_attached(lender: worlds.World) -> None:
    with lender.service.transfers.export_volume("e", "v"), pytest.raises(errors.WrongState):
        guests.attach(lender)
    assert guests.shown(lender) is None


def test_a_guest_notices_nothing_of_a_restart(lender: worlds.World) -> None:
    attached = guests.attach(lender)
    with guests.guest(attached) as guest:
        assert guest.write(0, b"a" * guests.BLOCK) == 0
        lender.stop()
        assert guest.write(guests.BLOCK, b"b" * guests.BLOCK) == 0
        lender.start()
        assert guests.shown(lender) == attached
        assert guest.read(0, 2 * guests.BLOCK) == b"a" * guests.BLOCK + b"b" * guests.BLOCK
    guests.detach(lender)
    assert lender.volume_bytes("v")[: 2 * guests.BLOCK] == b"a" * guests.BLOCK + b"b" * guests.BLOCK


def test_layers_under_a_guest_are_not_folded_before_it_is_gone(lender: worlds.World) -> None:
    for name in ("low", "high"):
        lender.write("v", 0, name[0].encode() * guests.BLOCK)
        lender.snapshot(name, "v", rapid=True)
    guests.attach(lender)
    depth = lender.depth("v")
    lender.delete_snapshot("low")
    lender.restart()
    lender.pass_time(minutes=30)
    lender.until(lender.idle)
    assert lender.depth("v") == depth
    guests.detach(lender)
    lender.until(lambda: lender.depth("v") == depth - 1)


def test_volumes_of_an_instance_share_a_process_that_ends_with_the_last(lender: worlds.World) -> None:
    _volume_of(lender, "root", "vm-1")
    _volume_of(lender, "data", "vm-1")
    root, data, alone = guests.attach(lender, "root"), guests.attach(lender, "data"), guests.attach(lender)
    assert root.socket == data.socket != alone.socket
    assert len(storagedaemons.found(lender.settings.live.exports_path)) == 2
    with guests.guest(data) as guest:
        guests.detach(lender, "root")
        assert guest.write(0, b"d" * guests.BLOCK) == 0
    with pytest.raises(errors.StorageDaemonRefused):
        Guest(pathlib.Path(root.socket), root.export)
    guests.detach(lender, "data")
    assert not pathlib.Path(root.socket).parent.exists()
    assert guests.state(lender) is model.AttachmentState.ATTACHED


def test_a_guest_that_may_only_read_can_not_write(lender: worlds.World) -> None:
    lender.write("v", 0, b"a" * guests.BLOCK)
    with guests.guest(guests.attach(lender, spec=dataclasses.replace(guests.SPEC, read_only=True))) as guest:
        assert guest.export.read_only
        assert guest.write(0, b"b" * guests.BLOCK) != 0
        assert guest.read(0, guests.BLOCK) == b"a" * guests.BLOCK
    guests.detach(lender)


def test_limits_hold_and_are_changed_under_the_guest(lender: worlds.World) -> None:
    with guests.guest(guests.attach(lender)) as guest:
        limits = model.Limits(iops=20)
        lender.service.attachments.set_limits(worlds.request("SetVolumeLimits"), "e", "v", "", limits)
        lender.restart()
        found = guests.shown(lender)
        assert found is not None
        assert found.attachment.limits == limits
        began_s = clock.monotonic_s()
        for _ in range(40):
            guest.read(0, guests.BLOCK)
        # It may do those of a tenth of a second at once.
        assert clock.monotonic_s() - began_s > 1
        lender.service.attachments.set_limits(worlds.request("SetVolumeLimits"), "e", "v", "", model.Limits())
    guests.detach(lender)
    with pytest.raises(errors.WrongState):
        lender.service.attachments.set_limits(worlds.request("SetVolumeLimits"), "e", "v", "", limits)


def test_the_same_request_attaches_once(lender: worlds.World) -> None:
    request = worlds.request("AttachVolume")
    first = lender.service.attachments.attach(request, "e", "v", guests.SPEC, "")
    assert lender.service.attachments.attach(request, "e", "v", guests.SPEC, "") == first
    request = worlds.request("DetachVolume")
    first = lender.service.attachments.detach(request, "e", "v", "", False)
    assert lender.service.attachments.detach(request, "e", "v", "", False) == first


def test_a_change_that_comes_too_late_is_refused(lender: worlds.World) -> None:
    with pytest.raises(errors.EtagMismatch):
        lender.service.attachments.attach(worlds.request("AttachVolume"), "e", "v", guests.SPEC, '"ffff"')
    assert guests.shown(lender) is None
    with pytest.raises(errors.WrongState):
        guests.detach(lender)


def test_without_the_program_only_attaching_is_refused(lender: worlds.World) -> None:
    live = dataclasses.replace(lender.settings.live, program="/nowhere/qemu-storage-daemon")
    lender.restart(dataclasses.replace(lender.settings, live=live))
    with pytest.raises(errors.StorageDaemonMissing):
        guests.attach(lender)
    assert guests.shown(lender) is None
    assert not lender.rows("SELECT 1 FROM storage_daemons UNION ALL SELECT 1 FROM operations WHERE done = 0")
    lender.write("v", 0, b"a" * guests.BLOCK)
    lender.snapshot("s", "v", rapid=True)


def test_a_folder_whose_sockets_would_have_too_long_names_is_refused_before_anything_is_done(
    lender: worlds.World, tmp_path: pathlib.Path
) -> None:
    live = dataclasses.replace(lender.settings.live, exports_path=tmp_path / ("long" * 20))
    lender.restart(dataclasses.replace(lender.settings, live=live))
    with pytest.raises(errors.ExportsUnusable, match="107 bytes"):
        guests.attach(lender)
    assert guests.shown(lender) is None
    assert not live.exports_path.exists()


def test_an_attach_that_fails_leaves_everything_as_it_was(lender: worlds.World, tmp_path: pathlib.Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho no memory >&2\nexit 1\n")
    program.chmod(0o755)
    good = lender.settings
    lender.restart(dataclasses.replace(good, live=dataclasses.replace(good.live, program=str(program))))
    with pytest.raises(errors.StorageDaemonGone, match="no memory"):
        guests.attach(lender)
    assert guests.shown(lender) is None
    assert not list(good.live.exports_path.iterdir())
    assert not lender.rows("SELECT 1 FROM intents UNION ALL SELECT 1 FROM operations WHERE method = 'AttachVolume'")
    lender.restart(good)
    guests.attach(lender)


def test_a_head_that_another_program_has_open_is_not_attached(lender: worlds.World) -> None:
    head = lender.get_volume("v").head_layer
    assert head is not None
    with storagedaemons.holding(lender.layer_path(head)), pytest.raises(errors.ImageBusy):
        guests.attach(lender)
    assert guests.state(lender) in (None, model.AttachmentState.ATTACHING)
    guests.attach(lender)


def test_a_volume_whose_process_died_while_we_were_away_has_crashed(lender: worlds.World) -> None:
    attached = guests.attach(lender)
    with guests.guest(attached) as guest:
        assert guest.write(0, b"a" * guests.BLOCK) == 0
    lender.stop()
    guests.kill(lender)
    lender.start()
    assert guests.state(lender) is model.AttachmentState.CRASHED
    # Its files are ours again, and nothing that was answered is lost.
    lender.snapshot("s", "v", rapid=True)
    assert lender.snapshot_bytes("s")[: guests.BLOCK] == b"a" * guests.BLOCK
    with pytest.raises(errors.VolumeAttached):
        lender.delete_volume("v")
    again = guests.attach(lender)
    assert again.socket != attached.socket
    with guests.guest(again) as guest:
        assert guest.read(0, guests.BLOCK) == b"a" * guests.BLOCK
    guests.kill(lender)
    guests.detach(lender)


def test_a_process_that_hangs_is_left_alone_until_it_answers_or_is_killed(lender: worlds.World) -> None:
    guests.attach(lender)
    with contextlib.closing(guests.process(lender)) as process:
        process.signal(signal.SIGSTOP)
        try:
            # Nothing waits for a greeting longer than it has to: the session is a new one.
            lender.restart()
            assert guests.state(lender) is model.AttachmentState.STALLED
            with pytest.raises(errors.StorageDaemonBusy):
                guests.detach(lender)
            assert guests.state(lender) is model.AttachmentState.DETACHING
        finally:
            process.signal(signal.SIGCONT)
    # What the call had to leave is finished as soon as the process is heard again.
    lender.until(lambda: guests.shown(lender) is None)
    guests.attach(lender)
    with contextlib.closing(guests.process(lender)) as process:
        process.signal(signal.SIGSTOP)
        guests.detach(lender, force=True)
        assert not process.is_alive()


def test_the_process_of_several_volumes_is_not_killed_for_one(lender: worlds.World) -> None:
    _volume_of(lender, "root", "vm-1")
    _volume_of(lender, "data", "vm-1")
    guests.attach(lender, "root")
    guests.attach(lender, "data")
    with pytest.raises(errors.WrongState):
        guests.detach(lender, "root", force=True)
    assert guests.state(lender, "root") is model.AttachmentState.ATTACHED


def test_a_folder_that_no_row_explains_is_swept_unless_somebody_serves_from_it(lender: worlds.World) -> None:
    attached = guests.attach(lender)
    stray = lender.settings.live.exports_path / "0b5cbbe4-7a5f-4a7c-8f53-5ae9ff9b2a4e"
    (stray / "monitor").mkdir(parents=True)
    (stray / "nbd.sock").touch()
    lender.restart()
    assert [path.name for path in lender.settings.live.exports_path.iterdir()] == [attached.attachment.storage_daemon]


def test_calls_that_come_at_once_find_each_other_in_order(lender: worlds.World) -> None:
    for name in ("root", "data"):
        _volume_of(lender, name, "vm-1")
    trouble: list[BaseException] = []

    def torment(volume_id: str) -> None:
        try:
            for number in range(4):
                attached = guests.attach(lender, volume_id)
                with guests.guest(attached) as guest:
                    assert guest.write(number * guests.BLOCK, volume_id[:1].encode() * guests.BLOCK) == 0
                    lender.snapshot(f"{volume_id}-{number}", volume_id, rapid=True)
                    assert guest.write((number + 4) * guests.BLOCK, b"z" * guests.BLOCK) == 0
                guests.detach(lender, volume_id)
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=torment, args=(volume_id,)) for volume_id in ("root", "data", "v")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not trouble
    for volume_id in ("root", "data", "v"):
        letter = volume_id[:1].encode() * guests.BLOCK
        written = letter * 4 + b"z" * 4 * guests.BLOCK
        assert lender.volume_bytes(volume_id)[: len(written)] == written
        assert lender.snapshot_bytes(f"{volume_id}-2")[: len(written)] == (
            letter * 3 + bytes(guests.BLOCK) + b"z" * 2 * guests.BLOCK + bytes(2 * guests.BLOCK)
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives processes another account")
def test_another_account_gets_the_layers_of_the_volume_and_nothing_else(
    lender: worlds.World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for folder in (tmp_path_factory.getbasetemp(), *tmp_path_factory.getbasetemp().parents[:2]):
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    live = dataclasses.replace(lender.settings.live, account=NOBODY)
    lender.restart(dataclasses.replace(lender.settings, live=live))
    lender.write("v", 0, b"a" * guests.BLOCK)
    lender.snapshot("s", "v", rapid=True)
    lender.volume("other")
    attached = guests.attach(lender)
    with guests.guest(attached) as guest:
        assert guest.read(0, guests.BLOCK) == b"a" * guests.BLOCK
        assert guest.write(0, b"b" * guests.BLOCK) == 0
    head = lender.get_volume("v").head_layer
    other = lender.get_volume("other").head_layer
    assert head is not None
    assert other is not None
    (below,) = [row["parent"] for row in lender.rows("SELECT parent FROM layers WHERE uid = ?", head)]
    lent = [lending.lent(lender.layer_path(uid), NOBODY.uid) for uid in (head, below, other)]
    assert lent == [lending.READ | lending.WRITE, lending.READ, 0]
    with contextlib.closing(guests.process(lender)) as process:
        assert pathlib.Path(f"/proc/{process.identity.pid}").stat().st_uid == NOBODY.uid
    with guests.guest(attached) as guest:
        lender.snapshot("t", "v", rapid=True)
        assert guest.write(0, b"c" * guests.BLOCK) == 0
        # What was frozen can't be written any more, whatever was lent before.
        assert lending.lent(lender.layer_path(head), NOBODY.uid) == lending.READ
        lender.restart()
        assert guest.write(0, b"d" * guests.BLOCK) == 0
    guests.detach(lender)
    layers = [row["uid"] for row in lender.rows("SELECT uid FROM layers")]
    assert {lending.lent(lender.layer_path(uid), NOBODY.uid) for uid in layers} == {0}
    assert lender.snapshot_bytes("t")[: guests.BLOCK] == b"b" * guests.BLOCK
