"""One storage daemon with its exports: what it is asked to do, in steps that can each be done again, and what it says.

Its graph is the truth while it answers: `heads` tells which layer each disk's filter stands on. What it was asked for
and didn't answer in time (errors.StorageDaemonBusy) may be done later all the same, so nothing is concluded from that,
and the next session looks. Who calls holds the group's mutex: a process has one session, and a session one thread.
"""

import logging
import pathlib
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from snapd import errors, model
from snapd.live import features, graph, launcher, nbd, qmp
from snapd.live import process as processes

START_S = 30.0
"""How long a process may take from its start to its greeting."""
SWITCH_S = 10.0
"""How long a transaction may take: requests that are under way are waited for."""
STOP_S = 10.0

_log = logging.getLogger(__name__)


class StorageDaemon:
    """A process of qemu-storage-daemon that serves a group of disks."""

    def __init__(
        self, loop: qmp.Loop, plan: launcher.Plan, process: processes.Process, *, greeting_s: float = qmp.GREETING_S
    ) -> None:
        """Take a process that `start` or `adopt` got hold of; greeting_s is how long it may take to greet."""
        self.greeting_s = greeting_s
        self._loop = loop
        self._plan = plan
        self._process = process
        self._open: qmp.Session | None = None

    @property
    def identity(self) -> processes.Identity:
        """Which process it is."""
        return self._process.identity

    @property
    def nbd_socket(self) -> pathlib.Path:
        """Where hypervisors connect; each disk is exported under its uid."""
        return self._plan.folder.nbd

    def vhost_socket(self, uid: str) -> pathlib.Path:
        """Return where a hypervisor connects to a disk that is exported by vhost-user."""
        return self._plan.folder.vhost / graph.vhost_socket(uid)

    def is_alive(self) -> bool:
        """Say whether the process has not ended."""
        return self._process.is_alive()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process has ended, and say whether it has."""
        return self._process.wait(timeout_s)

    # --- asking -------------------------------------------------------------------------------------------------------

    def _session(self) -> qmp.Session:
        if self._open is None or not self._open.is_open:
            try:
                self._open = qmp.connect(self._loop, self._plan.folder.qmp, self._plan.uid, timeout_s=self.greeting_s)
            except errors.StorageDaemonBusy as error:
                if self._process.is_stopped():
                    raise errors.StorageDaemonBusy(name=self._plan.uid, problem="the process is stopped") from error
                raise
        return self._open

    def _ask(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        return self._session().execute(command, arguments)

    def _nodes(self) -> dict[str, str | None]:
        """Return the names of all nodes, each with that of the node that it filters or whose format it reads."""
        told = self._ask("query-blockstats", {"query-nodes": True})
        return {node["node-name"]: node.get("parent", {}).get("node-name") for node in told if "node-name" in node}

    def heads(self) -> dict[str, str]:
        """Return the uid of the layer on which each disk stands, by the disk's uid: the first question of recovery.

        This and all that ask raise errors.StorageDaemonBusy, StorageDaemonGone and StorageDaemonRefused.
        """
        found = {}
        for node, below in self._nodes().items():
            disk = graph.disk_of(node)
            layer = graph.layer_of(below) if below is not None else None
            if disk is not None and layer is not None:
                found[disk] = layer
        return found

    def layers(self) -> set[str]:
        """Return the uids of all layers that it has open."""
        return {layer for layer in map(graph.layer_of, self._nodes()) if layer is not None}

    def exported(self) -> set[str]:
        """Return the uids of the disks that hypervisors can connect to."""
        told = self._ask("query-block-exports")
        disks = (graph.exported_by(export["id"]) for export in told if not export["shutting-down"])
        return {disk for disk in disks if disk is not None}

    def require_own(self) -> None:
        """Raise errors.StorageDaemonRefused if the process that listens isn't the one of this uid."""
        if not self._has_object(graph.marker(self._plan.uid)):
            raise self._refusal("adoption", "another storage daemon listens on its socket")

    def require_features(self) -> None:
        """Raise errors.StorageDaemonMissing if it lacks what live volumes need."""
        lacking = features.missing(self._ask("query-qmp-schema"))
        if lacking:
            problem = f"the installed {launcher.PROGRAM} lacks {', '.join(lacking)}"
            raise errors.StorageDaemonMissing(problem=problem)

    # --- disks --------------------------------------------------------------------------------------------------------

    def add(self, disk: graph.Disk) -> None:
        """Export a disk, and look at the export as a hypervisor would; what is there already is kept.

        If it can't be done, what was added is taken out again, as far as the process answers; a disk that was there
        before is left to its guest.
        """
        nodes = self._nodes()
        try:
            self._add(disk, nodes)
            self._verify(disk)
        except errors.SnapdError:
            if graph.filter_node(disk.uid) not in nodes:
                with suppress(errors.SnapdError):
                    self.remove(disk.uid, [layer.uid for layer in disk.chain])
            raise

    def _add(self, disk: graph.Disk, nodes: Container[str]) -> None:
        for arguments in graph.chain(disk):
            if arguments["node-name"] not in nodes:
                self._ask("blockdev-add", arguments)
        if graph.filter_node(disk.uid) not in nodes:
            if self._has_object(graph.throttle_group(disk.uid)):
                self.set_limits(disk.uid, disk.limits)
            else:
                self._ask("object-add", graph.group(disk))
            self._ask("blockdev-add", graph.fixed_filter(disk))
        there = {export["id"] for export in self._ask("query-block-exports")}
        for arguments in graph.exports(disk, self._plan.folder.vhost):
            if arguments["id"] not in there:
                self._ask("block-export-add", arguments)

    def _verify(self, disk: graph.Disk) -> None:
        """See that what is exported is what was asked for. Raises errors.StorageDaemonRefused."""
        top = self.heads().get(disk.uid)
        if top != disk.chain[0].uid:
            raise self._refusal("an export", f"disk {disk.uid} stands on layer {top}, not on {disk.chain[0].uid}")
        with closing(nbd.Client(self.nbd_socket, disk.uid)) as client:
            seen = client.export
        read_only = disk.read_only or disk.way is not model.AttachmentWay.NBD
        if seen.size_bytes != disk.size_bytes or seen.read_only != read_only or not seen.can_flush:
            raise self._refusal("an export", f"disk {disk.uid} of {disk.size_bytes} bytes is exported as {seen}")

    def remove(self, uid: str, layers: Sequence[str]) -> None:
        """End a disk's exports and close its layers, named from the top downwards; what others stand on stays open."""
        limited = self._has_object(graph.throttle_group(uid))
        if limited:
            # An export ends with the last request of its guest, and those keep to the limits.
            self.set_limits(uid, model.UNLIMITED)
        for export in (graph.export(uid), graph.side_export(uid)):
            self._end_export(export)
        nodes = self._nodes()
        if graph.filter_node(uid) in nodes:
            self._ask("blockdev-del", {"node-name": graph.filter_node(uid)})
        if limited:
            self._ask("object-del", {"id": graph.throttle_group(uid)})
        self.withdraw(layers)

    def _end_export(self, export: str) -> None:
        """End an export, whoever is connected, and wait until it is gone."""
        session = self._session()
        there = {entry["id"]: entry["shutting-down"] for entry in session.execute("query-block-exports")}
        if export not in there:
            return
        session.forget_events()
        if not there[export]:
            session.execute("block-export-del", {"id": export, "mode": "hard"})
        elif export not in {entry["id"] for entry in session.execute("query-block-exports")}:
            return  # it ended between the two questions
        session.wait_event("BLOCK_EXPORT_DELETED", {"id": export})

    def _has_object(self, name: str) -> bool:
        return name in {entry["name"] for entry in self._ask("qom-list", {"path": "/objects"})}

    def set_limits(self, uid: str, limits: model.Limits) -> None:
        """Change what a guest may do in a second, at once."""
        path = f"/objects/{graph.throttle_group(uid)}"
        self._ask("qom-set", {"path": path, "property": "limits", "value": graph.throttling(limits)})

    def flush(self, uids: Iterable[str]) -> None:
        """Have what was written to disks made durable, beside the guest: a switch then has little to wait for."""
        for uid in uids:
            with closing(nbd.Client(self.nbd_socket, uid)) as client:
                client.flush()

    # --- overlays -----------------------------------------------------------------------------------------------------

    def add_overlays(self, overlays: Iterable[graph.Layer], *, direct: bool = False) -> None:
        """Open layers that are to be put on heads; those that are open already stay so."""
        nodes = self._nodes()
        for overlay in overlays:
            if graph.layer_node(overlay.uid) not in nodes:
                self._ask("blockdev-add", graph.overlay(overlay, direct=direct))

    def switch(self, overlays: Mapping[str, str]) -> None:
        """Put layers on present heads, all in one moment: the overlay's uid by the head's. Done already, it stays so.

        Every write that was answered before is below, every later one goes into the overlays. Raises
        errors.StorageDaemonRefused, with nothing changed, if a head is no head (any more).
        """
        tops = set(self.heads().values())
        if tops.issuperset(overlays.values()):
            return
        if not tops.issuperset(overlays):
            strangers = ", ".join(sorted(set(overlays) - tops))
            raise self._refusal("transaction", f"no disk stands on {strangers}")
        self._session().execute("transaction", {"actions": graph.snapshots(overlays)}, timeout_s=SWITCH_S)

    def is_switched(self, overlays: Mapping[str, str]) -> bool:
        """Say whether layers were put on heads, or none of them was: the question that decides an open capture.

        Raises errors.StorageDaemonRefused if some were: each guess would lose writes.
        """
        tops = set(self.heads().values())
        switched = tops.intersection(overlays.values())
        if switched and len(switched) != len(overlays):
            raise self._refusal("a question", "some disks of a group were switched and others weren't")
        return bool(switched)

    def withdraw(self, layers: Iterable[str]) -> None:
        """Close layers, named from the top downwards; those on which somebody still stands stay open."""
        nodes = self._nodes()
        for uid in layers:
            if graph.layer_node(uid) not in nodes:
                continue
            try:
                self._ask("blockdev-del", {"node-name": graph.layer_node(uid)})
            except errors.StorageDaemonRefused as error:
                _log.debug("a layer stays open: %s", error, extra={"layer": uid})

    # --- its life -----------------------------------------------------------------------------------------------------

    def _refusal(self, command: str, problem: str) -> errors.StorageDaemonRefused:
        return errors.StorageDaemonRefused(name=self._plan.uid, command=command, problem=problem)

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Have the process end in good order. Raises errors.StorageDaemonBusy if it hasn't in time."""
        self._hang_up()
        self._process.terminate()
        if not self._process.wait(timeout_s):
            problem = f"it hasn't ended within {timeout_s:g} s"
            raise errors.StorageDaemonBusy(name=self._plan.uid, problem=problem)

    def kill(self) -> None:
        """End the process at once. Without writethrough that is a power cut for the guest."""
        self._hang_up()
        self._process.kill()
        self._process.wait(STOP_S)

    def close(self) -> None:
        """Let go of it; the process runs on."""
        self._hang_up()
        self._process.close()

    def _hang_up(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def start(
    loop: qmp.Loop, starter: launcher.Launcher, plan: launcher.Plan, disks: Iterable[graph.Disk] = ()
) -> StorageDaemon:
    """Start a storage daemon, and export disks by it.

    Raises errors.StorageDaemonMissing, StorageDaemonGone (with its last words), StorageDaemonBusy,
    StorageDaemonRefused, StorageFailed, SocketPathUnusable; there is no process then.
    """
    process = starter.start(plan)
    daemon = StorageDaemon(loop, plan, process, greeting_s=START_S)
    try:
        daemon.require_own()
        daemon.greeting_s = qmp.GREETING_S
        daemon.require_features()
        for disk in disks:
            daemon.add(disk)
    except errors.StorageDaemonGone as error:
        daemon.kill()
        daemon.close()
        raise errors.StorageDaemonGone(name=plan.uid, problem=launcher.last_words(plan.folder)) from error
    except errors.SnapdError:
        daemon.kill()
        daemon.close()
        raise
    return daemon


def adopt(
    loop: qmp.Loop,
    starter: launcher.Launcher,
    plan: launcher.Plan,
    identity: processes.Identity,
    *,
    greeting_s: float = qmp.GREETING_S,
) -> StorageDaemon | None:
    """Take over a storage daemon that an earlier process of ours started; None if it has ended.

    Raises errors.StorageDaemonBusy if it hangs, errors.StorageDaemonRefused if another one has its socket; it runs on.
    """
    process = starter.find(plan, identity)
    if process is None:
        return None
    daemon = StorageDaemon(loop, plan, process, greeting_s=greeting_s)
    try:
        daemon.require_own()
    except errors.StorageDaemonGone:
        alive = daemon.is_alive()
        daemon.close()
        if alive:
            raise
        return None
    except errors.SnapdError:
        daemon.close()
        raise
    return daemon


def dismiss(loop: qmp.Loop, plan: launcher.Plan) -> bool:
    """End a storage daemon that was started and never written down, and say whether there is none any more.

    It is found by its socket, and ended only if it is the one of the plan's uid and serves nothing. Raises
    errors.StorageDaemonBusy if somebody listens and doesn't greet, errors.StorageDaemonRefused if it isn't ours.
    """
    try:
        session = qmp.connect(loop, plan.folder.qmp, plan.uid)
    except errors.StorageDaemonGone:
        return True
    with closing(session), suppress(errors.StorageDaemonGone):
        objects = {entry["name"] for entry in session.execute("qom-list", {"path": "/objects"})}
        if graph.marker(plan.uid) not in objects:
            raise errors.StorageDaemonRefused(
                name=plan.uid, command="quit", problem="another storage daemon listens on its socket"
            )
        if session.execute("query-block-exports"):
            return False
        session.execute("quit")
    return True
