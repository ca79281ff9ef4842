"""Snapshots lent to be looked into: read-only, each by a storage daemon of its own.

Who looks into a snapshot shall not be able to end an instance's disks, so it is nobody's group but its own.
"""

from snapd import errors, model
from snapd.catalog import attachments, db, layers, points, snapshots
from snapd.service import core as cores
from snapd.service import deciding, lookup, names, states
from snapd.service import jobs as running
from snapd.service.attaching import disks as disking
from snapd.service.attaching import groups as grouping
from snapd.service.intents import attach, detach

Answer = tuple[model.Snapshot, model.Operation]


class SnapshotAttachments:
    """The attached snapshots of all environments."""

    def __init__(self, core: cores.Core, jobs: running.Jobs, disks: disking.Disks, decider: deciding.Decider) -> None:
        self._core = core
        self._jobs = jobs
        self._disks = disks
        self._decider = decider

    def attach(
        self,
        request: model.Request,
        environment_id: str,
        snapshot_id: str,
        way: model.AttachmentWay,
        limits: model.Limits,
        etag: str,
    ) -> Answer:
        """Lend a snapshot that is on primary storage, to be read; it is ATTACHED when this returns.

        Raises errors.NotFound, errors.WrongState, errors.SnapshotAttached, errors.EtagMismatch, errors.Corrupt,
        errors.StorageDaemonMissing, StorageDaemonGone, StorageDaemonBusy, StorageDaemonRefused, errors.StorageFailed.
        """
        core = self._core
        uid = lookup.snapshot(core.catalog.reader(), environment_id, snapshot_id).uid
        with core.locks.holding(uid):
            self._decider.decide_open(uid)
            earlier = lookup.earlier(core.catalog.reader(), request)
            if earlier is not None:
                return self._again(earlier)
            self._disks.groups.require_program()
            snapshot = lookup.snapshot(core.catalog.reader(), environment_id, snapshot_id)
            daemon = self._disks.groups.new(snapshot.environment_uid)
            with core.locks.holding(grouping.key(daemon)):
                with core.catalog.transaction() as tx:
                    self._require_attachable(tx, environment_id, snapshot.id, snapshot.uid, etag)
                self._disks.clear_crashed(snapshot.uid)
                intent = self._begin_attach(request, environment_id, snapshot, way, limits, etag, daemon)
                self._jobs.run_now(intent)
        return self._present(uid, intent)

    def _begin_attach(
        self,
        request: model.Request,
        environment_id: str,
        snapshot: model.Snapshot,
        way: model.AttachmentWay,
        limits: model.Limits,
        etag: str,
        daemon: model.StorageDaemon,
    ) -> model.Intent:
        core = self._core
        now = core.now()
        with core.catalog.transaction() as tx:
            lookup.require_new(tx.connection, request)
            top = self._require_attachable(tx, environment_id, snapshot.id, snapshot.uid, etag)
            attachment = model.Attachment(
                uid=names.new_uid(),
                volume_uid=None,
                snapshot_uid=snapshot.uid,
                storage_daemon=daemon.uid,
                way=way,
                state=model.AttachmentState.ATTACHING,
                read_only=True,
                writethrough=True,
                limits=limits,
                top=top,
                created=now,
            )
            operation = self._accept(tx, request, "AttachSnapshot", snapshot)
            return attach.begin(tx, daemon, attachment, operation, now)

    def _require_attachable(
        self, tx: db.Transaction, environment_id: str, snapshot_id: str, uid: str, etag: str
    ) -> str:
        """Return the uid of the layer that shows a snapshot, if that can be attached."""
        name = names.snapshot(environment_id, snapshot_id)
        snapshot = _still(tx, environment_id, snapshot_id, uid)
        lookup.require_etag(name, snapshot.revision, etag)
        states.require_snapshot("AttachSnapshot", name, snapshot.state)
        found = attachments.of_disk(tx.connection, uid)
        if found is not None and found.state is not model.AttachmentState.CRASHED:
            raise errors.SnapshotAttached(name=name)
        layer = points.layer_of(tx.connection, snapshot.point)
        if layer is None or layers.get(tx.connection, layer).state is not model.LayerState.FROZEN:
            raise errors.WrongState(
                name=name,
                state="in the archive alone",
                method="AttachSnapshot",
                allowed="on primary storage: make a volume of it and attach that",
            )
        return layer

    def detach(self, request: model.Request, environment_id: str, snapshot_id: str, etag: str) -> Answer:
        """Take a snapshot back, whoever is connected; it is detached when this returns.

        Raises errors.NotFound, errors.WrongState, errors.EtagMismatch, errors.StorageDaemonBusy,
        errors.StorageDaemonRefused, errors.StorageFailed; it is DETACHING until another try succeeds.
        """
        core = self._core
        uid = lookup.snapshot(core.catalog.reader(), environment_id, snapshot_id).uid
        with core.locks.holding(uid):
            self._decider.decide_open(uid)
            earlier = lookup.earlier(core.catalog.reader(), request)
            if earlier is not None:
                return self._again(earlier)
            with self._decider.lent(uid):
                intent = self._begin_detach(request, environment_id, snapshot_id, uid, etag)
                self._jobs.run_now(intent)
        return self._present(uid, intent)

    def _begin_detach(
        self, request: model.Request, environment_id: str, snapshot_id: str, uid: str, etag: str
    ) -> model.Intent:
        with self._core.catalog.transaction() as tx:
            lookup.require_new(tx.connection, request)
            name = names.snapshot(environment_id, snapshot_id)
            snapshot = _still(tx, environment_id, snapshot_id, uid)
            lookup.require_etag(name, snapshot.revision, etag)
            states.require_snapshot("DetachSnapshot", name, snapshot.state)
            attachment = detach.require_attached(tx, uid, name, "DetachSnapshot")
            operation = self._accept(tx, request, "DetachSnapshot", snapshot)
            return detach.begin(tx, attachment, operation, self._core.now())

    def _accept(
        self, tx: db.Transaction, request: model.Request, method: str, snapshot: model.Snapshot
    ) -> model.Operation:
        core = self._core
        environment = lookup.environment(tx.connection, snapshot.environment)
        name = names.snapshot(environment.id, snapshot.id)
        snapshots.touch(tx, snapshot.uid, core.now())
        operation = core.new_operation(method, environment, name, snapshot.uid)
        return lookup.accept(tx, request, operation, snapshot.uid)

    def _again(self, earlier: tuple[str, model.Operation | None]) -> Answer:
        """Return what the first try of a request made, as it is now."""
        uid, operation = earlier
        snapshot = snapshots.by_uid(self._core.catalog.reader(), uid)
        if snapshot is None or operation is None:
            raise errors.NotFound(resource_type="snapshot", name="" if operation is None else operation.target)
        return snapshot, operation

    def _present(self, uid: str, intent: model.Intent) -> Answer:
        snapshot = snapshots.by_uid(self._core.catalog.reader(), uid)
        assert snapshot is not None
        return snapshot, self._core.operation(intent.operation)


def _still(tx: db.Transaction, environment_id: str, snapshot_id: str, uid: str) -> model.Snapshot:
    """Return the snapshot whose mutex is held. Raises errors.NotFound if another one has its id by now."""
    snapshot = lookup.snapshot(tx.connection, environment_id, snapshot_id)
    if snapshot.uid != uid:
        raise errors.NotFound(resource_type="snapshot", name=names.snapshot(environment_id, snapshot_id))
    return snapshot
