import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
from contextlib import suppress

import pytest

from snapd import errors, model
from snapd.live import direct, lending, storage
from snapd.live import launcher as launchers
from snapd.live import process as processes
from tests.unit.live import world as worlds

NOBODY = launchers.Account(65534, 65534)
_START = """
import dataclasses, json, pathlib, sys
from snapd.live import direct, launcher
plan = launcher.Plan(sys.argv[1], launcher.Folder(pathlib.Path(sys.argv[2])))
print(json.dumps(dataclasses.asdict(direct.Direct().start(plan).identity)))
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")


def _status(pid: int) -> dict[str, str]:
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_storage_daemon_outlives_who_started_it_and_is_adopted(world: worlds.World) -> None:
    plan = world.plan()
    ours = subprocess.run(
        [sys.executable, "-c", _START, plan.uid, plan.folder.path], stdout=subprocess.PIPE, check=True, text=True
    )
    identity = processes.Identity(**json.loads(ours.stdout))
    adopted = storage.adopt(world.loop, world.launcher, plan, identity)
    assert adopted is not None
    world.keep(adopted)
    volume = world.volume()
    adopted.add(world.disk(volume))
    assert worlds.read(adopted, volume, 0, 512) == bytes(512)
    adopted.stop()
    assert not adopted.is_alive()


def test_signals_for_our_group_do_not_reach_it(world: worlds.World) -> None:
    daemon = world.start()
    assert os.getsid(daemon.identity.pid) == daemon.identity.pid
    assert os.getpgid(daemon.identity.pid) == daemon.identity.pid


def test_it_has_no_privileges_and_no_descriptors_of_ours(world: worlds.World) -> None:
    with (world.folder / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        daemon = world.start()
    status = _status(daemon.identity.pid)
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapInh"], 16) == 0
    if os.geteuid() == 0:
        assert int(status["CapBnd"], 16) == 0
        assert int(status["CapEff"], 16) == 0
    folder = pathlib.Path(f"/proc/{daemon.identity.pid}/fd")
    targets = []
    for number in folder.iterdir():
        with suppress(FileNotFoundError):
            targets.append(os.readlink(number))
    assert str(world.folder / "secret") not in targets


def test_only_we_reach_its_monitor_and_a_group_its_exports(world: worlds.World) -> None:
    plan = world.plan()
    world.start(plan=plan)
    assert _mode(plan.folder.qmp) == 0o600
    assert _mode(plan.folder.monitor) == 0o700
    assert _mode(plan.folder.nbd) == 0o660
    assert _mode(plan.folder.path) == 0o750
    assert _mode(plan.folder.vhost) == 0o2750
    assert _mode(plan.folder.log) == 0o640


def test_a_folder_whose_sockets_would_have_too_long_a_path_is_refused_and_not_made(world: worlds.World) -> None:
    folder = launchers.Folder(world.folder / ("x" * 80))
    with pytest.raises(errors.SocketPathUnusable):
        world.launcher.start(launchers.Plan(world.plan().uid, folder))
    assert not folder.path.exists()


def test_without_qemu_the_error_names_what_is_missing(world: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = world.plan()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(errors.StorageDaemonMissing):
        storage.start(world.loop, world.launcher, plan)
    assert not plan.folder.path.exists()


def test_a_process_that_ends_at_once_tells_its_last_words(world: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = world.plan()
    (world.folder / "bin").mkdir()
    program = world.folder / "bin" / launchers.PROGRAM
    program.write_text("#!/bin/sh\necho first; echo 'no such luck' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{world.folder / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(errors.StorageDaemonGone, match="no such luck"):
        storage.start(world.loop, world.launcher, plan)


def test_a_folder_of_an_earlier_process_is_used_again_and_removed(world: worlds.World) -> None:
    plan = world.plan()
    world.start(plan=plan).kill()
    assert plan.folder.qmp.exists()
    daemon = world.start(plan=plan)
    assert daemon.heads() == {}
    daemon.stop()
    plan.folder.remove()
    plan.folder.remove()
    assert not plan.folder.path.exists()


def test_one_that_does_not_end_when_it_is_asked_gives_a_typed_error_and_can_be_killed(world: worlds.World) -> None:
    daemon = world.start()
    os.kill(daemon.identity.pid, signal.SIGSTOP)
    with pytest.raises(errors.StorageDaemonBusy, match="hasn't ended"):
        daemon.stop(0.1)
    daemon.kill()
    assert not daemon.is_alive()


@as_root
def test_under_another_account_it_opens_what_it_was_lent_and_nothing_else(world: worlds.World) -> None:
    (world.folder / "exports").mkdir(mode=0o711)
    world.launcher = direct.Direct(NOBODY)
    volume, other = world.volume(world.layer()), world.volume()
    daemon = world.start()
    assert _status(daemon.identity.pid)["Uid"].split() == ["65534"] * 4
    with pytest.raises(errors.StorageDaemonRefused, match="Permission denied"):
        daemon.add(world.disk(volume))
    _lend(world, volume)
    daemon.add(world.disk(volume))
    worlds.write(daemon, volume, 0, b"a" * 512)
    with pytest.raises(errors.StorageDaemonRefused, match="Permission denied"):
        daemon.add(world.disk(other))
    overlays = world.overlays(volume)
    for overlay in overlays.values():
        _lend(world, worlds.Volume(volume.uid, [overlay]))
    daemon.add_overlays([world.described(overlay) for overlay in overlays.values()])
    daemon.switch({head: overlay.uid for head, overlay in overlays.items()})
    world.pool.freeze(volume.layers[0].uid)
    assert lending.lent(world.pool.path(volume.layers[0].uid), NOBODY.uid) == lending.READ
    worlds.write(daemon, volume, 0, b"b" * 512)
    daemon.stop()
    assert world.contents(volume.layers)[:512] == b"a" * 512


@as_root
def test_under_another_account_it_makes_sockets_for_vhost_user(world: worlds.World) -> None:
    (world.folder / "exports").mkdir(mode=0o711)
    world.launcher = direct.Direct(NOBODY)
    volume = world.volume()
    daemon = world.start()
    _lend(world, volume)
    daemon.add(world.disk(volume, model.AttachmentWay.VHOST_USER_BLK))
    status = daemon.vhost_socket(volume.uid).stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (NOBODY.uid, 0o770)


def _lend(world: worlds.World, volume: worlds.Volume) -> None:
    for folder in (world.pool.root, *(world.pool.path(layer.uid).parent for layer in volume.layers)):
        lending.lend(folder, NOBODY.uid, lending.SEARCH)
    head, *frozen = volume.layers
    lending.lend(world.pool.path(head.uid), NOBODY.uid, lending.READ | lending.WRITE)
    for layer in frozen:
        lending.lend(world.pool.path(layer.uid), NOBODY.uid, lending.READ)
