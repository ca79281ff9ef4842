"""Storage daemons as detached processes of ours, for hosts without systemd and for tests.

The listening sockets are made here and inherited, so they have their names, modes and owners before the process runs,
and it need not be able to make them. It runs without capabilities, can't win any, and under the account that it was
given, if we may change ours.
"""

import os
import pathlib
import shutil
import socket
import subprocess
from contextlib import ExitStack

from snapd import errors, fsops
from snapd.live import launcher
from snapd.live import process as processes

_PRIVATE = 0o600
_SHARED = 0o660
_UMASK = 0o007
"""What it makes by itself, sockets for vhost-user, is for its group too."""
_BACKLOG = 64


class Direct:
    """Starts detached processes."""

    def __init__(self, account: launcher.Account | None = None, program: str = launcher.PROGRAM) -> None:
        """Have them run under an account, which only root can give; None: under our own, without its privileges."""
        self._account = account
        self._program = program

    @property
    def account(self) -> launcher.Account | None:
        return self._account

    def start(self, plan: launcher.Plan) -> processes.Process:
        command = [*self._unprivileged(), launcher.require_program(self._program)]
        plan.folder.make(self._account, plan.clients_gid)
        with ExitStack() as stack, fsops.translated(plan.folder.path):
            qmp = stack.enter_context(_listen(plan.folder.qmp, -1, _PRIVATE))
            nbd = stack.enter_context(_listen(plan.folder.nbd, plan.clients_gid, _SHARED))
            log = fsops.create(plan.folder.log, 0o640)
            stack.callback(os.close, log)
            inherited = (qmp.fileno(), nbd.fileno())
            line = launcher.arguments(plan.uid, f"fd={inherited[0]}", f"addr.type=fd,addr.str={inherited[1]}")
            started = subprocess.Popen(  # noqa: S603 - the command is put together here, from names of ours
                [*command, *line],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=inherited,
                start_new_session=True,
                umask=_UMASK,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath)},
            )
        started.returncode = 0  # it isn't the module's to wait for: its end is seen by the pidfd
        found = processes.of_pid(started.pid)
        if found is None:
            raise errors.StorageDaemonGone(name=plan.uid, problem=launcher.last_words(plan.folder))
        return found

    def find(self, plan: launcher.Plan, identity: processes.Identity) -> processes.Process | None:
        del plan
        return processes.find(identity)

    def _unprivileged(self) -> list[str]:
        """Return the command that gives up what the process doesn't need, and then becomes it."""
        program = shutil.which("setpriv")
        if program is None:
            raise errors.StorageDaemonMissing(problem="setpriv, of util-linux, isn't on PATH")
        command = [program, "--no-new-privs", "--inh-caps=-all"]
        if os.geteuid() == 0:
            command.append("--bounding-set=-all")
        if self._account is not None:
            command += [f"--reuid={self._account.uid}", f"--regid={self._account.gid}", "--clear-groups"]
        return [*command, "--"]


def _listen(path: pathlib.Path, gid: int, mode: int) -> socket.socket:
    """Return a socket that listens at a path, which is free."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(str(path))
        fsops.set_group(path, gid)
        fsops.set_mode(path, mode)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
