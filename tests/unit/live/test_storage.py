import itertools
import os
import signal
import socket
import stat
from contextlib import closing

import pytest

from snapd import errors, model, units
from snapd.live import graph, qmp, storage
from snapd.live import process as processes
from snapd.qcow2.checking import check
from snapd.qcow2.reading import image
from tests.unit.live import world as worlds


def test_a_volume_is_read_and_written_and_keeps_what_was_acknowledged(world: worlds.World) -> None:
    volume = world.volume(world.layer())
    daemon = world.start(volume)
    worlds.write(daemon, volume, 512, b"a" * 512)
    assert worlds.read(daemon, volume, 0, 1536) == bytes(512) + b"a" * 512 + bytes(512)
    assert daemon.heads() == {volume.uid: volume.layers[0].uid}
    assert daemon.exported() == {volume.uid}
    daemon.kill()
    assert not daemon.is_alive()
    assert world.contents(volume.layers)[512:1024] == b"a" * 512


@pytest.mark.parametrize("disks", [1, 2])
def test_each_frozen_layer_is_an_exact_prefix_of_the_acknowledged_writes(world: worlds.World, disks: int) -> None:
    volumes = [world.volume() for _ in range(disks)]
    daemon = world.start(*volumes)
    load = worlds.Load(daemon, *volumes)
    acknowledged = []
    with load.running():
        for _ in range(8):
            load.wait(10)
            acknowledged.append(load.acknowledged)
            world.capture(daemon, *volumes)
    assert daemon.heads() == {volume.uid: volume.layers[0].uid for volume in volumes}
    found = []
    for depth, least in zip(range(8, 0, -1), acknowledged, strict=True):
        found.append(worlds.require_prefix([world.contents(volume.layers[depth:]) for volume in volumes], least))
    assert found == sorted(set(found))
    daemon.kill()
    assert worlds.require_prefix([world.contents(volume.layers) for volume in volumes], load.acknowledged)


def test_a_head_that_was_frozen_can_be_written_by_nobody_any_more(world: worlds.World) -> None:
    volume = world.volume()
    daemon = world.start(volume)
    frozen = world.pool.path(volume.layers[0].uid)
    with pytest.raises(errors.ImageBusy), image.Image.open(frozen):
        pass
    world.capture(daemon, volume)
    assert _writable_files(daemon.identity.pid) == {str(world.pool.path(volume.layers[0].uid))}
    assert stat.S_IMODE(frozen.stat().st_mode) == 0o440
    with image.Image.open(frozen) as opened:
        assert opened.size_bytes == worlds.SIZE


def _writable_files(pid: int) -> set[str]:
    found = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{number}")
        with open(f"/proc/{pid}/fdinfo/{number}") as told:
            flags = next(int(line.split()[1], 8) for line in told if line.startswith("flags:"))
        if target.endswith(".qcow2") and flags & os.O_ACCMODE != os.O_RDONLY:
            found.add(target)
    return found


def test_steps_of_a_capture_can_be_done_again_and_undone(world: worlds.World) -> None:
    volume, other = world.volume(), world.volume()
    daemon = world.start(volume, other)
    overlays = world.overlays(volume, other)
    described = [world.described(layer) for layer in overlays.values()]
    switch = {head: layer.uid for head, layer in overlays.items()}
    daemon.add_overlays(described)
    daemon.add_overlays(described)
    assert not daemon.is_switched(switch)
    daemon.withdraw(switch.values())
    assert daemon.layers() == set(switch)
    daemon.withdraw(switch.values())
    daemon.add_overlays(described)
    daemon.switch(switch)
    daemon.switch(switch)
    assert daemon.is_switched(switch)
    daemon.withdraw(switch.values())  # somebody stands on them now
    assert set(daemon.heads().values()) == set(switch.values())


def test_a_group_is_switched_as_a_whole_or_not_at_all(world: worlds.World) -> None:
    volume, other = world.volume(), world.volume()
    daemon = world.start(volume, other)
    overlays = world.overlays(volume, other)
    first, second = overlays.values()
    daemon.add_overlays([world.described(first)])  # and the second isn't there
    with pytest.raises(errors.StorageDaemonRefused):
        daemon.switch({head: layer.uid for head, layer in overlays.items()})
    assert daemon.heads() == {volume.uid: volume.layers[0].uid, other.uid: other.layers[0].uid}
    with pytest.raises(errors.StorageDaemonRefused, match="no disk stands on"):
        daemon.switch({second.uid: first.uid})
    daemon.switch({volume.layers[0].uid: first.uid})
    with pytest.raises(errors.StorageDaemonRefused, match="others weren't"):
        daemon.is_switched({head: layer.uid for head, layer in overlays.items()})


def test_another_object_adopts_the_process_and_the_guest_notices_nothing(world: worlds.World) -> None:
    volume = world.volume()
    plan = world.plan()
    daemon = world.start(volume, plan=plan)
    with closing(worlds.Guest(daemon.nbd_socket, volume.uid)) as guest:
        assert guest.write(0, b"a" * 512) == 0
        daemon.close()
        adopted = storage.adopt(world.loop, world.launcher, plan, daemon.identity)
        assert adopted is not None
        world.keep(adopted)
        assert adopted.heads() == {volume.uid: volume.layers[0].uid}
        world.capture(adopted, volume)
        assert guest.write(0, b"b" * 512) == 0
    adopted.stop()
    assert world.contents(volume.layers[1:])[:512] == b"a" * 512
    assert world.contents(volume.layers)[:512] == b"b" * 512
    assert storage.adopt(world.loop, world.launcher, plan, daemon.identity) is None


def test_a_process_of_the_same_pid_that_was_started_at_another_time_is_not_adopted(world: worlds.World) -> None:
    plan = world.plan()
    daemon = world.start(plan=plan)
    true = daemon.identity
    daemon.close()
    replaced = processes.Identity(true.boot, true.pid, true.start_ticks - 1)
    assert storage.adopt(world.loop, world.launcher, plan, replaced) is None


def test_a_process_that_listens_in_anothers_place_is_refused_and_runs_on(world: worlds.World) -> None:
    plan, other = world.plan(), world.plan()
    daemon, stranger = world.start(plan=plan), world.start(plan=other)
    daemon.close()
    stranger.close()
    plan.folder.qmp.unlink()
    other.folder.qmp.rename(plan.folder.qmp)
    with pytest.raises(errors.StorageDaemonRefused, match="another storage daemon"):
        storage.adopt(world.loop, world.launcher, plan, daemon.identity)
    assert processes.find(stranger.identity) is not None


def test_a_qmp_socket_that_is_taken_gives_a_typed_error_and_io_goes_on(world: worlds.World) -> None:
    volume = world.volume()
    plan = world.plan()
    daemon = world.start(volume, plan=plan)
    daemon.close()
    with socket.socket(socket.AF_UNIX) as taken:
        taken.connect(str(plan.folder.qmp))
        assert b"QMP" in taken.recv(4096)
        with pytest.raises(errors.StorageDaemonBusy, match="no greeting"):
            storage.adopt(world.loop, world.launcher, plan, daemon.identity, greeting_s=0.5)
        worlds.write(daemon, volume, 0, b"a" * 512)
    adopted = storage.adopt(world.loop, world.launcher, plan, daemon.identity)
    assert adopted is not None
    world.keep(adopted)


def test_a_stopped_process_gives_a_typed_error_and_is_usable_once_it_goes_on(world: worlds.World) -> None:
    volume = world.volume()
    daemon = world.start(volume)
    os.kill(daemon.identity.pid, signal.SIGSTOP)
    try:
        daemon._hang_up()
        daemon.greeting_s = 0.5
        with pytest.raises(errors.StorageDaemonBusy, match="stopped"):
            daemon.heads()
        assert daemon.is_alive()
    finally:
        os.kill(daemon.identity.pid, signal.SIGCONT)
    daemon.greeting_s = 10
    assert daemon.heads() == {volume.uid: volume.layers[0].uid}


def test_limits_hold_at_once_and_can_be_lifted(world: worlds.World) -> None:
    volume = world.volume()
    daemon = world.start(volume)
    daemon.set_limits(volume.uid, model.Limits(iops=1))
    slow = worlds.Guest(daemon.nbd_socket, volume.uid, timeout_s=0.5)
    with closing(slow), pytest.raises(errors.StorageDaemonBusy):
        list(itertools.starmap(slow.read, [(0, 512)] * 20))
    world.capture(daemon, volume)  # a queue of throttled requests doesn't hold it up
    daemon.set_limits(volume.uid, model.Limits())
    with closing(worlds.Guest(daemon.nbd_socket, volume.uid)) as guest:
        for _ in range(20):
            guest.read(0, 512)


def test_disks_come_and_go_and_share_the_layers_that_they_stand_on(world: worlds.World) -> None:
    base = world.layer()
    volume, other = world.volume(base), world.volume(base)
    plan = world.plan()
    daemon = world.start(volume, other, plan=plan)
    assert daemon.layers() == {volume.layers[0].uid, other.layers[0].uid, base.uid}
    with closing(worlds.Guest(daemon.nbd_socket, volume.uid)) as guest:
        daemon.remove(volume.uid, [layer.uid for layer in volume.layers])
        with pytest.raises(errors.StorageDaemonGone):
            guest.read(0, 512)
    daemon.remove(volume.uid, [layer.uid for layer in volume.layers])
    assert daemon.exported() == {other.uid}
    assert daemon.layers() == {other.layers[0].uid, base.uid}
    worlds.write(daemon, other, 0, b"b" * 512)
    daemon.remove(other.uid, [layer.uid for layer in other.layers])
    assert (daemon.exported(), daemon.layers()) == (set(), set())
    objects = {entry["name"] for entry in daemon._ask("qom-list", {"path": "/objects"})}
    assert objects == {"type", graph.marker(plan.uid)}
    daemon.add(world.disk(volume))
    assert worlds.read(daemon, volume, 0, 512) == bytes(512)


def test_a_disk_goes_while_requests_of_its_guest_are_under_way(world: worlds.World) -> None:
    volume = world.volume()
    daemon = world.start(volume)
    daemon.set_limits(volume.uid, model.Limits(iops=1))
    with closing(worlds.Guest(daemon.nbd_socket, volume.uid)) as guest:
        guest.send_reads(10)
        daemon.remove(volume.uid, [layer.uid for layer in volume.layers])
    assert (daemon.exported(), daemon.layers()) == (set(), set())


def test_a_disk_that_can_not_be_exported_as_asked_leaves_nothing_behind(world: worlds.World) -> None:
    volume = world.volume(world.layer())
    daemon = world.start()
    disk = world.disk(volume)
    larger = graph.Disk(disk.uid, disk.size_bytes + units.MIB, disk.chain)
    missing = graph.Disk(disk.uid, disk.size_bytes, [*disk.chain, world.described(world.layer())])
    missing.chain[-1].path.unlink()
    for wrong in (larger, missing):
        with pytest.raises(errors.StorageDaemonRefused):
            daemon.add(wrong)
        assert (daemon.exported(), daemon.layers()) == (set(), set())
    daemon.add(disk)
    assert daemon.exported() == {volume.uid}
    with closing(worlds.Guest(daemon.nbd_socket, volume.uid)) as guest:
        daemon.add(disk)
        with pytest.raises(errors.StorageDaemonRefused):
            daemon.add(larger)
        assert guest.read(0, 512) == bytes(512)  # it keeps the disk that it has


def test_a_snapshot_is_looked_into_and_can_not_be_written(world: worlds.World) -> None:
    volume = world.volume()
    daemon = world.start(volume)
    worlds.write(daemon, volume, 0, b"a" * 512)
    world.capture(daemon, volume)
    worlds.write(daemon, volume, 0, b"b" * 512)
    snapshot = worlds.Volume("11111111-2222-4333-8444-555555555555", volume.layers[1:])
    daemon.add(world.disk(snapshot, read_only=True))
    with closing(worlds.Guest(daemon.nbd_socket, snapshot.uid)) as guest:
        assert guest.export.read_only
        assert guest.read(0, 512) == b"a" * 512
        assert guest.write(0, b"c" * 512) != 0
    assert worlds.read(daemon, volume, 0, 512) == b"b" * 512


def test_a_disk_under_vhost_user_has_a_socket_of_its_own_and_is_flushed_beside_it(world: worlds.World) -> None:
    volume = world.volume()
    daemon = world.start()
    daemon.add(world.disk(volume, model.AttachmentWay.VHOST_USER_BLK))
    path = daemon.vhost_socket(volume.uid)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o770
    world.capture(daemon, volume)
    assert daemon.exported() == {volume.uid}
    with closing(worlds.Guest(daemon.nbd_socket, volume.uid)) as guest:
        assert guest.export.read_only
    daemon.remove(volume.uid, [layer.uid for layer in volume.layers])
    assert daemon.exported() == set()


def test_a_killed_process_leaves_every_acknowledged_write_and_no_errors(world: worlds.World) -> None:
    volume = world.volume()
    daemon = world.start(volume)
    load = worlds.Load(daemon, volume)
    with load.running():
        load.wait(50)
        daemon.kill()
    assert worlds.require_prefix([world.contents(volume.layers)], load.acknowledged)
    assert check.check(world.pool.path(volume.layers[0].uid)).corruptions == 0


def test_what_was_not_answered_in_time_is_asked_for_again_without_harm(world: worlds.World) -> None:
    volume = world.volume()
    daemon = world.start(volume)
    (overlay,) = world.overlays(volume).values()
    os.kill(daemon.identity.pid, signal.SIGSTOP)
    try:
        with pytest.raises(errors.StorageDaemonBusy):
            daemon._session().execute("blockdev-add", graph.overlay(world.described(overlay)), timeout_s=0.1)
    finally:
        os.kill(daemon.identity.pid, signal.SIGCONT)
    # It was read and done, or it was thrown away when we hung up: both are well.
    daemon.add_overlays([world.described(overlay)])
    daemon.switch({volume.layers[0].uid: overlay.uid})
    assert daemon.heads() == {volume.uid: overlay.uid}


def test_two_storage_daemons_never_write_one_head_and_may_read_one_layer(world: worlds.World) -> None:
    base = world.layer()
    volume, other = world.volume(base), world.volume(base)
    world.start(volume)
    with pytest.raises(errors.StorageDaemonRefused, match="lock"):
        world.start(volume)
    assert len(world.start(other).layers()) == 2


def test_of_disks_that_are_started_together_all_are_exported_or_no_process_is_left(world: worlds.World) -> None:
    plan = world.plan()
    volume, other = world.volume(), world.volume()
    world.pool.path(other.layers[0].uid).unlink()
    with pytest.raises(errors.StorageDaemonRefused, match="No such file"):
        world.start(volume, other, plan=plan)
    with pytest.raises(errors.StorageDaemonGone):
        qmp.connect(world.loop, plan.folder.qmp, plan.uid)


def test_a_process_that_nobody_wrote_down_is_ended_if_it_is_ours_and_serves_nothing(world: worlds.World) -> None:
    plan, busy, other = world.plan(), world.plan(), world.plan()
    empty = world.start(plan=plan)
    serving, stranger = world.start(world.volume(), plan=busy), world.start(plan=other)
    for daemon in (empty, serving, stranger):
        daemon._hang_up()
    assert not storage.dismiss(world.loop, busy)
    assert serving.is_alive()
    assert storage.dismiss(world.loop, plan)
    assert empty.wait(10)
    assert storage.dismiss(world.loop, plan)
    other.folder.qmp.rename(plan.folder.qmp)
    with pytest.raises(errors.StorageDaemonRefused, match="another storage daemon"):
        storage.dismiss(world.loop, plan)
    assert stranger.is_alive()
