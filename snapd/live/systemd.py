"""Storage daemons as units of systemd, from the template snapd-storage-export@.service.

Each has a cgroup, an account and a sandbox of its own, so that a restart of ours never touches a guest's I/O.

The unit makes the folder and the sockets by itself; a rule of polkit lets our account start and stop that template, and
nothing else. Its processes run under another account, so signals go through systemd, which knows them by their unit.
"""

import shutil
import signal
import subprocess

from snapd import errors
from snapd.live import launcher
from snapd.live import process as processes

TEMPLATE = "snapd-storage-export"
START_S = 30.0
"""How long systemctl may take; the unit gives up before."""


class Systemd:
    """Starts units. The folder of each plan is the one that the unit makes, named by the plan's uid."""

    def __init__(self, account: launcher.Account) -> None:
        """Take the account that the template names."""
        self._account = account

    @property
    def account(self) -> launcher.Account | None:
        return self._account

    def start(self, plan: launcher.Plan) -> processes.Process:
        launcher.require_program()
        plan.folder.require_short()
        unit = _unit(plan)
        started = _systemctl("start", unit)
        if started.returncode != 0:
            raise errors.StorageDaemonGone(name=plan.uid, problem=_said(started))
        shown = _systemctl("show", "--property=MainPID", "--value", unit)
        found = processes.of_pid(int(shown.stdout)) if shown.stdout.strip().isdecimal() else None
        if found is None:
            raise errors.StorageDaemonGone(name=plan.uid, problem=f"{unit} ended at once; its journal tells why")
        return _Unit(found, unit)

    def find(self, plan: launcher.Plan, identity: processes.Identity) -> processes.Process | None:
        found = processes.find(identity)
        return None if found is None else _Unit(found, _unit(plan))


class _Unit(processes.Process):
    """The main process of a unit."""

    def __init__(self, process: processes.Process, unit: str) -> None:
        super().__init__(process.identity, process.detach())
        self._unit = unit

    def signal(self, number: signal.Signals) -> None:
        # A unit's name is never used for another process, so there is none that could be hit by mistake.
        _systemctl("kill", f"--signal={number.name}", self._unit)


def _unit(plan: launcher.Plan) -> str:
    return f"{TEMPLATE}@{plan.uid}.service"


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Call systemctl. Raises errors.StorageDaemonMissing, errors.StorageDaemonBusy."""
    program = shutil.which("systemctl")
    if program is None:
        raise errors.StorageDaemonMissing(problem="storage daemons are started by systemd, and systemctl isn't on PATH")
    try:
        return subprocess.run(  # noqa: S603 - verbs of ours and the name of a unit of ours
            [program, "--no-ask-password", *arguments], capture_output=True, text=True, timeout=START_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        problem = f"systemctl {arguments[0]} took longer than {START_S:g} s"
        raise errors.StorageDaemonBusy(name=arguments[-1], problem=problem) from error


def _said(call: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in call.stderr.splitlines() if line.strip()]
    return lines[0][:500] if lines else f"systemctl ended with {call.returncode}"
