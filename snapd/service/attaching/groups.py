"""Storage daemons by their rows: how each is reached, started and ended. There is one for each group of disks.

Whether a process is gone is proven, never guessed: it has ended, by its boot, pid and start. One that neither answers
nor is gone raises errors.StorageDaemonBusy, and then nothing may be decided.
"""

import dataclasses
import pathlib
import threading
from collections.abc import Callable
from contextlib import suppress

from snapd import errors, fsops, model
from snapd.catalog import attachments, storagedaemons
from snapd.live import direct, graph, launcher, qmp, storage, systemd
from snapd.live import process as processes
from snapd.service import core as cores
from snapd.service import names

_PASSABLE = 0o711
_END_S = 10.0
"""How long the kernel may take to end a process that was killed."""


def key(daemon: model.StorageDaemon) -> str:
    """Return the key of the mutex of a group, under which all is done that its storage daemon is asked."""
    return key_of_instance(daemon.environment_uid, daemon.instance) if daemon.instance else f"group/{daemon.uid}"


def key_of_instance(environment_uid: str, instance: str) -> str:
    """Return the key of the mutex of an instance's group, whether it has a storage daemon or not."""
    return f"group/{environment_uid}/{instance}"


class Groups:
    """The storage daemons."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core
        self._settings = core.settings.live
        self._guard = threading.Lock()
        self._loop: qmp.Loop | None = None
        self._open: dict[str, storage.StorageDaemon] = {}
        self._stalled: dict[str, errors.SnapdError] = {}
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call listener whenever a storage daemon is started, or doesn't answer. It must not block."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    # --- before there is one ------------------------------------------------------------------------------------------

    def require_program(self) -> None:
        """Require that a storage daemon can be started; nothing looks for that before.

        Raises errors.StorageDaemonMissing, errors.ExportsUnusable.
        """
        if self._settings.launcher is model.Launcher.DIRECT:
            launcher.require_program(self._settings.program)
        try:
            self._plan(names.new_uid()).folder.require_short()
        except errors.SocketPathUnusable as error:
            raise errors.ExportsUnusable(problem=error.problem) from error

    def new(self, environment_uid: str, instance: str = "") -> model.StorageDaemon:
        """Return a storage daemon of an instance, or of one disk alone, that is yet to be stored and to be started."""
        return model.StorageDaemon(
            uid=names.new_uid(),
            instance=instance,
            environment_uid=environment_uid,
            launcher=self._settings.launcher,
            generation=0,
            boot="",
            pid=None,
            start_ticks=None,
        )

    def folder(self, daemon: model.StorageDaemon) -> launcher.Folder:
        """Return where a storage daemon's sockets lie."""
        return self._plan(daemon.uid).folder

    def socket(self, daemon: model.StorageDaemon, way: model.AttachmentWay, disk_uid: str) -> pathlib.Path:
        """Return where a hypervisor connects to a disk."""
        folder = self.folder(daemon)
        return folder.nbd if way is model.AttachmentWay.NBD else folder.vhost / graph.vhost_socket(disk_uid)

    def _plan(self, uid: str) -> launcher.Plan:
        return launcher.Plan(uid, launcher.Folder(self._settings.exports_path / uid), self._settings.clients_gid)

    def launcher_of(self, daemon: model.StorageDaemon) -> launcher.Launcher:
        """Return who starts a storage daemon and finds it again."""
        if daemon.launcher is model.Launcher.DIRECT:
            return direct.Direct(self._settings.account, self._settings.program)
        assert self._settings.account is not None, "the configuration demands the account of the unit"
        return systemd.Systemd(self._settings.account)

    def _sessions(self) -> qmp.Loop:
        """Return the loop of all sessions, made when the first is needed."""
        with self._guard:
            if self._loop is None:
                self._loop = qmp.Loop()
            return self._loop

    # --- reaching it --------------------------------------------------------------------------------------------------

    def reach(self, daemon: model.StorageDaemon) -> storage.StorageDaemon | None:
        """Return a storage daemon to be asked; None: it is gone, or was never written down and serves nothing.

        Raises errors.StorageDaemonBusy, errors.StorageDaemonRefused: then it is neither there nor gone.
        """
        found = self._open.get(daemon.uid)
        if found is not None and found.is_alive():
            return found
        self._let_go(daemon.uid)
        try:
            found = self._find(daemon)
        except errors.SnapdError as error:
            self.note(daemon.uid, error)
            raise
        self.note(daemon.uid, None)
        if found is not None:
            self._open[daemon.uid] = found
        return found

    def _find(self, daemon: model.StorageDaemon) -> storage.StorageDaemon | None:
        plan, named = self._plan(daemon.uid), identity(daemon)
        if named is not None:
            found = storage.adopt(self._sessions(), self.launcher_of(daemon), plan, named)
            if found is not None:
                return found
        # Who started another one may have died before the row said so.
        if plan.folder.path.is_dir() and not storage.dismiss(self._sessions(), plan):
            problem = "it serves something, though nobody wrote down that it was started"
            raise errors.StorageDaemonRefused(name=daemon.uid, command="quit", problem=problem)
        return None

    def trouble(self, daemon_uid: str) -> errors.SnapdError | None:
        """Return what the last question to a storage daemon ended with, if it wasn't answered."""
        return self._stalled.get(daemon_uid)

    def note(self, daemon_uid: str, trouble: errors.SnapdError | None) -> None:
        """Remember that a storage daemon didn't answer, or isn't what the catalog says; None: that it is."""
        if trouble is None:
            self._stalled.pop(daemon_uid, None)
        else:
            self._stalled[daemon_uid] = trouble
            self._tell()

    # --- its life -----------------------------------------------------------------------------------------------------

    def start(self, daemon: model.StorageDaemon) -> storage.StorageDaemon:
        """Start the storage daemon of a row, and have the row say which process it is.

        Raises what live.storage.start raises; there is no process then.
        """
        self._make_exports()
        started = storage.start(self._sessions(), self.launcher_of(daemon), self._plan(daemon.uid))
        self._open[daemon.uid] = started
        fsops.point("storage_daemon.spawned")
        process = started.identity
        with self._core.catalog.transaction() as tx:
            storagedaemons.put(
                tx,
                dataclasses.replace(
                    daemon,
                    generation=daemon.generation + 1,
                    boot=process.boot,
                    pid=process.pid,
                    start_ticks=process.start_ticks,
                ),
            )
        self._tell()
        return started

    def _make_exports(self) -> None:
        """Make the folder of exports, unless it is there, whoever made it.

        Anybody may go through it to a folder whose name he knows; who may enter that is its own matter.
        """
        path = self._settings.exports_path
        with fsops.translated(path):
            if not path.is_dir():
                fsops.make_directory(path, _PASSABLE)
                # The daemon's umask lets nobody through.
                fsops.set_mode(path, _PASSABLE)

    def stop_if_idle(self, daemon: model.StorageDaemon, process: storage.StorageDaemon) -> None:
        """End a storage daemon that serves nothing any more. Raises errors.StorageDaemonBusy if it doesn't end."""
        if process.exported() or process.heads():
            return
        process.stop()
        self._let_go(daemon.uid)

    def kill(self, daemon: model.StorageDaemon) -> None:
        """End a storage daemon at once, whether it answers or not.

        Raises errors.StorageDaemonBusy if the kernel doesn't end it.
        """
        named = identity(daemon)
        self._let_go(daemon.uid)
        found = None if named is None else self.launcher_of(daemon).find(self._plan(daemon.uid), named)
        if found is None:
            return
        found.kill()
        ended = found.wait(_END_S)
        found.close()
        if not ended:
            raise errors.StorageDaemonBusy(name=daemon.uid, problem="it was killed, and the kernel hasn't ended it yet")

    def clear(self, daemon: model.StorageDaemon, attachment_uid: str) -> None:
        """Remove the folder of a storage daemon that is gone, unless others than one attachment were served by it."""
        others = attachments.of_daemon(self._core.catalog.reader(), daemon.uid)
        if daemon.uid not in self._open and all(other.uid == attachment_uid for other in others):
            self.folder(daemon).remove()
            self.note(daemon.uid, None)

    def sweep(self, uid: str) -> bool:
        """Remove the folder of a storage daemon without a row, and say whether it is gone; one that serves stays.

        Raises errors.StorageDaemonBusy, errors.StorageDaemonRefused, errors.StorageFailed.
        """
        if not storage.dismiss(self._sessions(), self._plan(uid)):
            return False
        self._plan(uid).folder.remove()
        return True

    def _let_go(self, uid: str) -> None:
        found = self._open.pop(uid, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        """Let go of all of them; they run on."""
        for uid in list(self._open):
            with suppress(errors.SnapdError):
                self._let_go(uid)
        if self._loop is not None:
            self._loop.close()


def identity(daemon: model.StorageDaemon) -> processes.Identity | None:
    """Return which process a row names, if it names one."""
    if daemon.pid is None or daemon.start_ticks is None:
        return None
    return processes.Identity(daemon.boot, daemon.pid, daemon.start_ticks)
