"""Volumes lent to guests by the real storage daemon, and taken back."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import stat
from collections.abc import Callable, Iterator

import pytest

from snapd import clock, errors, model, units
from snapd.live import launcher, lending
from snapd.live import process as processes
from snapd.service.attachments import AttachmentSpec, Shown
from snapd.service.volumes import VolumeSpec
from tests import storagedaemons
from tests.unit.live.world import Guest
from tests.unit.service import world as worlds

BLOCK = 4 * units.KIB
SPEC = AttachmentSpec(model.AttachmentWay.NBD, read_only=False, writethrough=True, limits=model.Limits())
NOBODY = launcher.Account(65534, 65534)


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[worlds.World]:
    """Run a service with an environment `e` and a volume `v`; what it left is checked, and what it started is ended."""
    with storagedaemons.folder() as exports:
        world = worlds.World(tmp_path, exports)
        world.start()
        world.environment()
        world.volume("v")
        try:
            yield world
            world.check()
        finally:
            world.stop()


def _attach(world: worlds.World, volume_id: str = "v", spec: AttachmentSpec = SPEC) -> Shown:
    volume, operation = world.service.attachments.attach(worlds.request("AttachVolume"), "e", volume_id, spec, "")
    assert (operation.done, operation.error) == (True, None)
    found = world.service.attachments.of(volume)
    assert found is not None
    assert found.attachment.state is model.AttachmentState.ATTACHED
    return found


def _detach(world: worlds.World, volume_id: str = "v", *, force: bool = False) -> None:
    world.service.attachments.detach(worlds.request("DetachVolume"), "e", volume_id, "", force)
    assert _shown(world, volume_id) is None


def _shown(world: worlds.World, volume_id: str = "v") -> Shown | None:
    return world.service.attachments.of(world.get_volume(volume_id))


def _state(world: worlds.World, volume_id: str = "v") -> model.AttachmentState | None:
    found = _shown(world, volume_id)
    return None if found is None else found.attachment.state


@contextlib.contextmanager
def _guest(attached: Shown) -> Iterator[Guest]:
    with contextlib.closing(Guest(pathlib.Path(attached.socket), attached.export)) as guest:
        yield guest


def _process(world: worlds.World) -> processes.Process:
    (only,) = storagedaemons.found(world.settings.live.exports_path)
    return only


def _kill(world: worlds.World) -> None:
    assert storagedaemons.end(world.settings.live.exports_path) == 1


def _refusal(world: worlds.World) -> errors.SnapdError:
    with pytest.raises(errors.SnapdError) as refused:
        _detach(world)
    return refused.value


def _volume_of(world: worlds.World, volume_id: str, instance: str) -> None:
    spec = VolumeSpec("", {}, model.VolumeRole.DATA, instance, worlds.SIZE, "")
    world.service.volumes.create(worlds.request("CreateVolume"), "e", volume_id, spec)


def test_what_a_guest_wrote_is_in_the_volume_when_it_is_detached(world: worlds.World) -> None:
    world.write("v", 0, b"a" * BLOCK)
    with _guest(_attach(world)) as guest:
        assert guest.read(0, BLOCK) == b"a" * BLOCK
        assert guest.write(BLOCK, b"b" * BLOCK) == 0
    _detach(world)
    assert world.volume_bytes("v") == b"a" * BLOCK + b"b" * BLOCK + bytes(worlds.SIZE - 2 * BLOCK)
    assert not storagedaemons.found(world.settings.live.exports_path)


def test_a_volume_on_layers_shows_them_to_its_guest(world: worlds.World) -> None:
    world.write("v", 0, b"a" * BLOCK)
    world.snapshot("s", "v", rapid=True)
    clone = world.clone("c", "s")
    assert clone.size_bytes == worlds.SIZE
    with _guest(_attach(world, "v")) as first, _guest(_attach(world, "c")) as second:
        assert first.write(0, b"b" * BLOCK) == 0
        assert second.read(0, BLOCK) == b"a" * BLOCK
    _detach(world, "v")
    assert world.snapshot_bytes("s")[:BLOCK] == b"a" * BLOCK
    assert _state(world, "c") is model.AttachmentState.ATTACHED


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda world: world.write("v", 0, bytes(512)), id="write"),
        pytest.param(lambda world: world.volume_bytes("v"), id="export"),
        pytest.param(lambda world: world.service.checks.begin("e", "v", mend=True), id="check"),
        pytest.param(lambda world: world.snapshot("new", "v", rapid=True), id="rapid snapshot"),
        pytest.param(lambda world: world.snapshot("new", "v", rapid=False), id="regular snapshot"),
        pytest.param(lambda world: world.revert("v", "s"), id="revert"),
        pytest.param(lambda world: world.delete_volume("v"), id="delete"),
        pytest.param(_attach, id="attach"),
    ],
)
def test_what_needs_the_volume_to_itself_is_refused(
    world: worlds.World, call: Callable[[worlds.World], object]
) -> None:
    world.snapshot("s", "v", rapid=True)
    attached = _attach(world)
    before = (
        world.rows("SELECT * FROM volumes"),
        world.rows("SELECT * FROM intents"),
        world.rows("SELECT * FROM layers"),
    )
    with pytest.raises(errors.VolumeAttached) as refused:
        call(world)
    assert refused.value.name == "environments/e/volumes/v"
    assert before == (
        world.rows("SELECT * FROM volumes"),
        world.rows("SELECT * FROM intents"),
        world.rows("SELECT * FROM layers"),
    )
    with _guest(attached) as guest:
        assert guest.write(0, b"c" * BLOCK) == 0


def test_a_stream_of_writes_ends_with_the_attach(world: worlds.World) -> None:
    with contextlib.closing(world.service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")) as write:
        write.data(0, b"a" * BLOCK)
        attached = _attach(world)
        with pytest.raises(errors.VolumeAttached):
            write.data(BLOCK, b"b" * BLOCK)
    with _guest(attached) as guest:
        assert guest.read(0, 2 * BLOCK) == b"a" * BLOCK + bytes(BLOCK)


def test_a_volume_that_is_read_by_a_call_is_not_attached(world: worlds.World) -> None:
    with world.service.transfers.export_volume("e", "v"), pytest.raises(errors.WrongState):
        _attach(world)
    assert _shown(world) is None


def test_a_guest_notices_nothing_of_a_restart(world: worlds.World) -> None:
    attached = _attach(world)
    with _guest(attached) as guest:
        assert guest.write(0, b"a" * BLOCK) == 0
        world.stop()
        assert guest.write(BLOCK, b"b" * BLOCK) == 0
        world.start()
        assert _shown(world) == attached
        assert guest.read(0, 2 * BLOCK) == b"a" * BLOCK + b"b" * BLOCK
    _detach(world)
    assert world.volume_bytes("v")[: 2 * BLOCK] == b"a" * BLOCK + b"b" * BLOCK


def test_layers_under_a_guest_are_not_folded_before_it_is_gone(world: worlds.World) -> None:
    for name in ("low", "high"):
        world.write("v", 0, name[0].encode() * BLOCK)
        world.snapshot(name, "v", rapid=True)
    _attach(world)
    depth = world.depth("v")
    world.delete_snapshot("low")
    world.restart()
    world.pass_time(minutes=30)
    world.until(world.idle)
    assert world.depth("v") == depth
    _detach(world)
    world.until(lambda: world.depth("v") == depth - 1)


def test_volumes_of_an_instance_share_a_process_that_ends_with_the_last(world: worlds.World) -> None:
    _volume_of(world, "root", "vm-1")
    _volume_of(world, "data", "vm-1")
    root, data, alone = _attach(world, "root"), _attach(world, "data"), _attach(world)
    assert root.socket == data.socket != alone.socket
    assert len(storagedaemons.found(world.settings.live.exports_path)) == 2
    with _guest(data) as guest:
        _detach(world, "root")
        assert guest.write(0, b"d" * BLOCK) == 0
    with pytest.raises(errors.StorageDaemonRefused):
        Guest(pathlib.Path(root.socket), root.export)
    _detach(world, "data")
    assert not pathlib.Path(root.socket).parent.exists()
    assert _state(world) is model.AttachmentState.ATTACHED


def test_a_guest_that_may_only_read_can_not_write(world: worlds.World) -> None:
    world.write("v", 0, b"a" * BLOCK)
    with _guest(_attach(world, spec=dataclasses.replace(SPEC, read_only=True))) as guest:
        assert guest.export.read_only
        assert guest.write(0, b"b" * BLOCK) != 0
        assert guest.read(0, BLOCK) == b"a" * BLOCK
    _detach(world)


def test_limits_hold_and_are_changed_under_the_guest(world: worlds.World) -> None:
    with _guest(_attach(world)) as guest:
        limits = model.Limits(iops=20)
        world.service.attachments.set_limits(worlds.request("SetVolumeLimits"), "e", "v", "", limits)
        world.restart()
        found = _shown(world)
        assert found is not None
        assert found.attachment.limits == limits
        began_s = clock.monotonic_s()
        for _ in range(40):
            guest.read(0, BLOCK)
        # It may do those of a tenth of a second at once.
        assert clock.monotonic_s() - began_s > 1
        world.service.attachments.set_limits(worlds.request("SetVolumeLimits"), "e", "v", "", model.Limits())
    _detach(world)
    with pytest.raises(errors.WrongState):
        world.service.attachments.set_limits(worlds.request("SetVolumeLimits"), "e", "v", "", limits)


def test_the_same_request_attaches_once(world: worlds.World) -> None:
    request = worlds.request("AttachVolume")
    first = world.service.attachments.attach(request, "e", "v", SPEC, "")
    assert world.service.attachments.attach(request, "e", "v", SPEC, "") == first
    request = worlds.request("DetachVolume")
    first = world.service.attachments.detach(request, "e", "v", "", False)
    assert world.service.attachments.detach(request, "e", "v", "", False) == first


def test_a_change_that_comes_too_late_is_refused(world: worlds.World) -> None:
    with pytest.raises(errors.EtagMismatch):
        world.service.attachments.attach(worlds.request("AttachVolume"), "e", "v", SPEC, '"ffff"')
    assert _shown(world) is None
    with pytest.raises(errors.WrongState):
        _detach(world)


def test_without_the_program_only_attaching_is_refused(world: worlds.World) -> None:
    live = dataclasses.replace(world.settings.live, program="/nowhere/qemu-storage-daemon")
    world.restart(dataclasses.replace(world.settings, live=live))
    with pytest.raises(errors.StorageDaemonMissing):
        _attach(world)
    assert _shown(world) is None
    assert not world.rows("SELECT 1 FROM storage_daemons UNION ALL SELECT 1 FROM operations WHERE done = 0")
    world.write("v", 0, b"a" * BLOCK)
    world.snapshot("s", "v", rapid=True)


def test_an_attach_that_fails_leaves_everything_as_it_was(world: worlds.World, tmp_path: pathlib.Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho no memory >&2\nexit 1\n")
    program.chmod(0o755)
    good = world.settings
    world.restart(dataclasses.replace(good, live=dataclasses.replace(good.live, program=str(program))))
    with pytest.raises(errors.StorageDaemonGone, match="no memory"):
        _attach(world)
    assert _shown(world) is None
    assert not list(good.live.exports_path.iterdir())
    assert not world.rows("SELECT 1 FROM intents UNION ALL SELECT 1 FROM operations WHERE method = 'AttachVolume'")
    world.restart(good)
    _attach(world)


def test_a_head_that_another_program_has_open_is_not_attached(world: worlds.World) -> None:
    head = world.get_volume("v").head_layer
    assert head is not None
    with storagedaemons.holding(world.layer_path(head)), pytest.raises(errors.ImageBusy):
        _attach(world)
    assert _state(world) in (None, model.AttachmentState.ATTACHING)
    _attach(world)


def test_a_volume_whose_process_died_while_we_were_away_has_crashed(world: worlds.World) -> None:
    attached = _attach(world)
    with _guest(attached) as guest:
        assert guest.write(0, b"a" * BLOCK) == 0
    world.stop()
    _kill(world)
    world.start()
    assert _state(world) is model.AttachmentState.CRASHED
    # Its files are ours again, and nothing that was answered is lost.
    world.snapshot("s", "v", rapid=True)
    assert world.snapshot_bytes("s")[:BLOCK] == b"a" * BLOCK
    with pytest.raises(errors.VolumeAttached):
        world.delete_volume("v")
    again = _attach(world)
    assert again.socket != attached.socket
    with _guest(again) as guest:
        assert guest.read(0, BLOCK) == b"a" * BLOCK
    _kill(world)
    _detach(world)


def test_a_process_that_hangs_is_left_alone_until_it_answers_or_is_killed(world: worlds.World) -> None:
    _attach(world)
    with contextlib.closing(_process(world)) as process:
        process.signal(signal.SIGSTOP)
        try:
            # Nothing waits for a greeting longer than it has to: the session is a new one.
            world.restart()
            assert _state(world) is model.AttachmentState.STALLED
            with pytest.raises(errors.StorageDaemonBusy):
                _detach(world)
            assert _state(world) is model.AttachmentState.DETACHING
        finally:
            process.signal(signal.SIGCONT)
    # The next call finishes what the first one had to leave, and there is nothing left for itself.
    world.until(lambda: isinstance(_refusal(world), errors.WrongState))
    assert _shown(world) is None
    _attach(world)
    with contextlib.closing(_process(world)) as process:
        process.signal(signal.SIGSTOP)
        _detach(world, force=True)
        assert not process.is_alive()


def test_the_process_of_several_volumes_is_not_killed_for_one(world: worlds.World) -> None:
    _volume_of(world, "root", "vm-1")
    _volume_of(world, "data", "vm-1")
    _attach(world, "root")
    _attach(world, "data")
    with pytest.raises(errors.WrongState):
        _detach(world, "root", force=True)
    assert _state(world, "root") is model.AttachmentState.ATTACHED


def test_a_folder_that_no_row_explains_is_swept_unless_somebody_serves_from_it(world: worlds.World) -> None:
    attached = _attach(world)
    stray = world.settings.live.exports_path / "0b5cbbe4-7a5f-4a7c-8f53-5ae9ff9b2a4e"
    (stray / "monitor").mkdir(parents=True)
    (stray / "nbd.sock").touch()
    world.restart()
    assert [path.name for path in world.settings.live.exports_path.iterdir()] == [attached.attachment.storage_daemon]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives processes another account")
def test_another_account_gets_the_layers_of_the_volume_and_nothing_else(
    world: worlds.World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for folder in (tmp_path_factory.getbasetemp(), *tmp_path_factory.getbasetemp().parents[:2]):
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    live = dataclasses.replace(world.settings.live, account=NOBODY)
    world.restart(dataclasses.replace(world.settings, live=live))
    world.write("v", 0, b"a" * BLOCK)
    world.snapshot("s", "v", rapid=True)
    world.volume("other")
    with _guest(_attach(world)) as guest:
        assert guest.read(0, BLOCK) == b"a" * BLOCK
        assert guest.write(0, b"b" * BLOCK) == 0
    head = world.get_volume("v").head_layer
    other = world.get_volume("other").head_layer
    assert head is not None
    assert other is not None
    (below,) = [row["parent"] for row in world.rows("SELECT parent FROM layers WHERE uid = ?", head)]
    lent = [lending.lent(world.layer_path(uid), NOBODY.uid) for uid in (head, below, other)]
    assert lent == [lending.READ | lending.WRITE, lending.READ, 0]
    with contextlib.closing(_process(world)) as process:
        assert pathlib.Path(f"/proc/{process.identity.pid}").stat().st_uid == NOBODY.uid
    _detach(world)
    assert [lending.lent(world.layer_path(uid), NOBODY.uid) for uid in (head, below, other)] == [0, 0, 0]
