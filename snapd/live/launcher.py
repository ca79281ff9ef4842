"""The contract of who starts storage daemons, and what all of them have in common: sockets, command line, account.

A storage daemon outlives us, and is found again by its identity. Its folder holds:

    monitor/qmp.sock    where we, and nobody else, speak to it; one client at a time
    monitor/log         what it says on standard error, if it isn't the journal's
    nbd.sock            where hypervisors connect, if they are of the group
    vhost/              sockets that it makes by itself, one for each export by vhost-user
"""

import dataclasses
import os
import pathlib
import shutil
import stat
from typing import Protocol

from snapd import errors, fsops
from snapd.live import graph, lending
from snapd.live import process as processes

PROGRAM = "qemu-storage-daemon"

_FOLDER_MODE = 0o750
MOST_CLIENTS = 64
"""Connections to one NBD server: those of a hypervisor for each volume, and ours."""

_LONGEST_SOCKET_PATH = 107
"""Bytes of a socket's path: sun_path of unix(7), less the closing zero."""


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """Under whom a storage daemon runs."""

    uid: int
    gid: int


@dataclasses.dataclass(frozen=True, slots=True)
class Folder:
    """Where a storage daemon's sockets lie."""

    path: pathlib.Path

    @property
    def monitor(self) -> pathlib.Path:
        """The folder of what is ours alone."""
        return self.path / "monitor"

    @property
    def qmp(self) -> pathlib.Path:
        """Where we speak to it."""
        return self.monitor / "qmp.sock"

    @property
    def nbd(self) -> pathlib.Path:
        """Where hypervisors connect."""
        return self.path / "nbd.sock"

    @property
    def vhost(self) -> pathlib.Path:
        """The folder in which it makes sockets by itself."""
        return self.path / "vhost"

    @property
    def log(self) -> pathlib.Path:
        """What it says on standard error."""
        return self.monitor / "log"

    def require_short(self) -> None:
        """Raise errors.SocketPathUnusable if the path of a socket would be too long for the kernel."""
        longest = self.vhost / graph.vhost_socket("0" * 32)
        length = len(os.fsencode(longest))
        if length > _LONGEST_SOCKET_PATH:
            problem = f"the path of a socket may have {_LONGEST_SOCKET_PATH} bytes, this one has {length}"
            raise errors.SocketPathUnusable(path=str(longest), problem=problem)

    def make(self, account: Account | None, clients_gid: int = -1) -> None:
        """Make the folder, with nothing of an earlier process in it; clients_gid is the group of those who connect.

        Raises errors.StorageFailed, errors.SocketPathUnusable.
        """
        self.require_short()
        with fsops.translated(self.path):
            for folder in (self.path, self.vhost):
                fsops.make_directory(folder, _FOLDER_MODE)
                fsops.set_group(folder, clients_gid)
                fsops.set_mode(folder, _FOLDER_MODE)
            fsops.make_directory(self.monitor)
            # What the process makes in there gets the folder's group.
            fsops.set_mode(self.vhost, _FOLDER_MODE | stat.S_ISGID)
            for path in (self.qmp, self.nbd, self.log, *self.vhost.iterdir()):
                fsops.unlink(path, durable=False)
            if account is not None:
                fsops.set_owner(self.vhost, account.uid, -1)
                lending.lend(self.path, account.uid, lending.SEARCH)

    def remove(self) -> None:
        """Remove the folder, after its process's end. Raises errors.StorageFailed."""
        with fsops.translated(self.path):
            if not self.path.is_dir():
                return
            for folder in (self.vhost, self.monitor, self.path):
                for path in folder.iterdir() if folder.is_dir() else ():
                    fsops.unlink(path, durable=False)
                fsops.remove_directory(folder)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A storage daemon that is to be started."""

    uid: str
    """UUID of its row: the process carries it as a marker."""
    folder: Folder
    clients_gid: int = -1
    """The group of those who may connect to its exports; -1: our own."""


class Launcher(Protocol):
    """Who starts storage daemons and finds them again."""

    @property
    def account(self) -> Account | None:
        """Whom files have to be lent to; None: they run as we do."""
        ...

    def start(self, plan: Plan) -> processes.Process:
        """Start a storage daemon that serves nothing yet; a call to its sockets waits until it is ready.

        Raises errors.StorageDaemonMissing, errors.StorageDaemonGone, errors.StorageFailed, errors.SocketPathUnusable.
        """
        ...

    def find(self, plan: Plan, identity: processes.Identity) -> processes.Process | None:
        """Return the very process that was started by a plan, or None if it has ended."""
        ...


def require_program(program: str = PROGRAM) -> str:
    """Return the path of QEMU's storage daemon, by its name or its path. Raises errors.StorageDaemonMissing."""
    found = shutil.which(program)
    if found is None:
        raise errors.StorageDaemonMissing(problem=f"{program} isn't {'there' if '/' in program else 'on PATH'}")
    return found


def arguments(uid: str, qmp_address: str, nbd_address: str) -> list[str]:
    """Return the command line behind the program's name, for sockets that it makes or is given.

    qmp_address is what the chardev takes ('path=…' or 'fd=…'), nbd_address what the server takes ('addr.type=…').
    """
    return [
        "--object",
        f"throttle-group,id={graph.marker(uid)}",
        "--chardev",
        f"socket,id=qmp,{qmp_address},server=on,wait=off",
        "--monitor",
        "chardev=qmp",
        "--nbd-server",
        f"{nbd_address},max-connections={MOST_CLIENTS}",
    ]


def last_words(folder: Folder) -> str:
    """Return the last line that a storage daemon said, for people."""
    try:
        lines = folder.log.read_text(errors="replace").split("\n")
    except OSError:
        return "it said nothing"
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:500] if said else "it said nothing"
