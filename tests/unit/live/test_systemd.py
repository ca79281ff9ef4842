import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from snapd import errors
from snapd.live import launcher as launchers
from snapd.live import process as processes
from snapd.live import storage, systemd
from tests.unit.live import world as worlds

ROOT = pathlib.Path(__file__).parents[3]
UNIT = ROOT / "systemd" / f"{systemd.TEMPLATE}@.service"
RUN = "/run/snapd-storage-exports"
UID = "11111111-2222-4333-8444-555555555555"
ACCOUNT = launchers.Account(65534, 65534)

_SYSTEMCTL = """#!{python}
# Does what systemctl does with the template: runs its command line, tells its process, and signals it.
import os, pathlib, re, signal, subprocess, sys
verb, *options, unit = [word for word in sys.argv[1:] if word != "--no-ask-password"]
uid = re.fullmatch(r"{template}@(.*)[.]service", unit)[1]
text = pathlib.Path("{unit}").read_text().replace("{run}", "{exports}").replace("%i", uid)
folder = pathlib.Path("{exports}", uid)
if verb == "start":
    for name in ("vhost", "monitor"):
        (folder / name).mkdir(parents=True)
    command = re.search(r"^ExecStart=(.*)$", text, re.M)[1].split()
    sys.exit(subprocess.run(command).returncode)
pid = int((folder / "monitor" / "pid").read_text())
if verb == "show":
    print(pid)
elif verb == "kill":
    os.kill(pid, signal.Signals[options[0].partition("=")[2]])
"""


@pytest.fixture
def host(world: worlds.World, monkeypatch: pytest.MonkeyPatch) -> worlds.World:
    """Have a stand-in for systemctl, since a test can have no service manager of its own."""
    bin_folder = world.folder / "bin"
    bin_folder.mkdir()
    exports = world.folder / "exports"
    program = bin_folder / "systemctl"
    program.write_text(
        _SYSTEMCTL.format(python=sys.executable, template=systemd.TEMPLATE, unit=UNIT, run=RUN, exports=exports)
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    world.launcher = systemd.Systemd(ACCOUNT)
    return world


def test_the_unit_starts_what_the_launcher_would() -> None:
    folder = launchers.Folder(pathlib.Path(RUN) / UID)
    command = re.search(r"^ExecStart=(.*)$", UNIT.read_text().replace("%i", UID), re.MULTILINE)
    assert command is not None
    addresses = (f"path={folder.qmp}", f"addr.type=unix,addr.path={folder.nbd}")
    expected = ["--daemonize", "--pidfile", str(folder.monitor / "pid"), *launchers.arguments(UID, *addresses)]
    assert command[1].split() == ["/usr/bin/qemu-storage-daemon", *expected]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze isn't installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: pathlib.Path) -> None:
    unit = tmp_path / UNIT.name
    # What is looked for is a mistake of ours and not what is installed here.
    unit.write_text(re.sub(r"^(Exec\w+=\+?)/usr/bin/[\w-]+", r"\1/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_a_unit_is_started_found_again_and_stopped(host: worlds.World) -> None:
    plan = host.plan()
    volume = host.volume()
    daemon = host.start(volume, plan=plan)
    worlds.write(daemon, volume, 0, b"a" * 512)
    daemon.close()
    adopted = storage.adopt(host.loop, host.launcher, plan, daemon.identity)
    assert adopted is not None
    host.keep(adopted)
    assert adopted.exported() == {volume.uid}
    adopted.stop()
    assert not adopted.is_alive()
    assert host.contents(volume.layers)[:512] == b"a" * 512
    assert storage.adopt(host.loop, host.launcher, plan, daemon.identity) is None


def test_a_unit_that_can_not_be_started_gives_a_typed_error(host: worlds.World) -> None:
    plan = host.plan()
    plan.folder.monitor.mkdir(parents=True)  # so that the stand-in fails
    with pytest.raises(errors.StorageDaemonGone, match="Traceback"):
        storage.start(host.loop, host.launcher, plan)


def test_without_systemctl_the_error_names_it(host: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which(launchers.PROGRAM)
    assert program is not None
    (host.folder / "bin" / "systemctl").unlink()
    (host.folder / "bin" / launchers.PROGRAM).symlink_to(program)
    monkeypatch.setenv("PATH", str(host.folder / "bin"))
    with pytest.raises(errors.StorageDaemonMissing, match="systemctl"):
        host.launcher.start(host.plan())


def test_signals_go_through_systemd(host: worlds.World) -> None:
    daemon = host.start()
    daemon.kill()
    assert processes.find(daemon.identity) is None
