"""Snapshots: capture, listing, early archiving, deletion."""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from snapd import errors, model
from snapd.catalog import attachments, db, environments, journal, layers, operations, pauses, points, snapshots, volumes
from snapd.service import core as cores
from snapd.service import deciding, health, lookup, names, states
from snapd.service import jobs as running
from snapd.service.intents import archive as archive_run
from snapd.service.intents import attach, capture, delete_snapshot, live_capture


@dataclasses.dataclass(frozen=True, slots=True)
class SnapshotSpec:
    """What a new snapshot is to be."""

    rapid: bool
    display_name: str
    labels: Mapping[str, str]
    retention: datetime.timedelta | None
    """Of a rapid one; None takes the environment's."""


class Snapshots:
    """The snapshots of all environments."""

    def __init__(self, core: cores.Core, jobs: running.Jobs, decider: deciding.Decider) -> None:
        self._core = core
        self._jobs = jobs
        self._decider = decider

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, environment_id: str, snapshot_id: str) -> model.Snapshot:
        """Return a snapshot, with the progress of its archiving. Raises errors.NotFound."""
        return self._live(lookup.snapshot(self._core.catalog.reader(), environment_id, snapshot_id))

    def list(self, query: model.Query) -> model.Page[model.Snapshot]:
        """Return one page. Raises errors.NotFound, errors.InvalidFilter, errors.InvalidPageToken."""
        reader = self._core.catalog.reader()
        page = snapshots.page(reader, query, lookup.scope(reader, query))
        return model.Page(tuple(self._live(snapshot) for snapshot in page.items), page.next_page_token)

    def _live(self, snapshot: model.Snapshot) -> model.Snapshot:
        """Return a snapshot with what only the running archiver knows: how far it is."""
        if snapshot.archive.state is model.ArchiveState.SCHEDULED:
            return self._waiting(snapshot)
        if snapshot.archive.state is not model.ArchiveState.ARCHIVING:
            return health.shown(self._core, snapshot)
        control = self._core.controls.find(archive_run.KIND, snapshot.uid)
        if control is None:
            return snapshot
        progress = control.progress()
        verifying = progress.stage == model.ArchiveState.VERIFYING
        archive = dataclasses.replace(
            snapshot.archive,
            state=model.ArchiveState.VERIFYING if verifying else snapshot.archive.state,
            bytes_done=progress.bytes_done,
            bytes_total=progress.bytes_total,
            bytes_per_second=progress.bytes_per_second,
            estimated_end=self._core.after(progress.remaining),
        )
        return dataclasses.replace(snapshot, archive=archive)

    def _waiting(self, snapshot: model.Snapshot) -> model.Snapshot:
        """Return a snapshot that is in the archiver's queue, with whether a pause keeps it there."""
        core = self._core
        due, now = snapshot.archive.next_attempt, core.now()
        if due is None or due > now or pauses.find(core.catalog.reader(), model.Worker.ARCHIVER, now) is None:
            return snapshot
        return dataclasses.replace(snapshot, archive=dataclasses.replace(snapshot.archive, paused=True))

    def space(self, snapshot: model.Snapshot) -> model.Space:
        """Return what a snapshot takes on primary storage."""
        return self._core.space(points.layer_of(self._core.catalog.reader(), snapshot.point))

    # --- changing -----------------------------------------------------------------------------------------------------

    def create(
        self, request: model.Request, environment_id: str, snapshot_id: str, volume_id: str, spec: SnapshotSpec
    ) -> tuple[model.Snapshot, model.Operation]:
        """Capture a volume. A rapid snapshot is COMPLETED when this returns, a regular one is archived from now on.

        Of an attached volume it is taken while the guest goes on, with every write that was answered before the call.
        Raises errors.NotFound, errors.AlreadyExists, errors.WrongState, errors.PoolFull, errors.ChainDepth,
        errors.StorageDaemonBusy, StorageDaemonGone, StorageDaemonRefused.
        """
        core = self._core
        earlier = lookup.earlier(core.catalog.reader(), request)
        if earlier is not None and not self._is_being_captured(*earlier):
            return self._again(earlier)
        volume = lookup.volume(core.catalog.reader(), environment_id, volume_id)
        snapshot_id = snapshot_id or names.generated_snapshot_id(volume.id, core.now())
        with (
            core.locks.holding(volume.uid),
            core.locks.holding(f"{volume.environment_uid}/{snapshot_id}"),
            self._decider.settled(volume.uid) as attachment,
        ):
            accepted = self._accept(request, environment_id, snapshot_id, volume.uid, spec, attachment)
            if not isinstance(accepted, model.Intent):
                return self._again(accepted)
            self._jobs.run_now(accepted)
        found = snapshots.by_uid(core.catalog.reader(), capture.decode(accepted.payload).snapshot_uid)
        assert found is not None
        return self._live(found), core.operation(accepted.operation)

    def _is_being_captured(self, uid: str, operation: model.Operation | None) -> bool:
        """Say whether another thread is at a request: then its outcome is there once the volume's mutex is free."""
        if operation is None or operation.done:
            return False
        return snapshots.by_uid(self._core.catalog.reader(), uid) is None

    def _accept(
        self,
        request: model.Request,
        environment_id: str,
        snapshot_id: str,
        volume_uid: str,
        spec: SnapshotSpec,
        attachment: model.Attachment | None,
    ) -> model.Intent | tuple[str, model.Operation | None]:
        """Write the intent down, or return what the same request made while this one waited for the volume."""
        core = self._core
        with core.catalog.transaction() as tx:
            earlier = lookup.earlier(tx.connection, request)
            if earlier is not None:
                return earlier
            environment = lookup.environment(tx.connection, environment_id)
            volume = self._capturable(tx, volume_uid, environment_id, spec)
            name = names.snapshot(environment_id, snapshot_id)
            if snapshots.find(tx.connection, environment.uid, snapshot_id) is not None:
                raise errors.AlreadyExists(resource_type="snapshot", name=name)
            overlay = core.new_layer(volume.head_layer, volume.size_bytes)
            layers.insert(tx, overlay)
            plan = capture.Capture(
                snapshot_uid=names.new_uid(),
                snapshot_id=snapshot_id,
                volume_uid=volume.uid,
                overlay=overlay.uid,
                point=names.new_uid(),
                rapid=spec.rapid,
                display_name=spec.display_name or snapshot_id,
                labels=spec.labels,
                retention=spec.retention if spec.rapid else None,
                due_after=self._retention(environment, spec.retention),
            )
            operation = core.new_operation("CreateSnapshot", environment, name, plan.snapshot_uid)
            lookup.accept(tx, request, operation, plan.snapshot_uid)
            payload = plan.encode() | {running.INLINE: "1"}
            kind, subject = capture.KIND, plan.snapshot_uid
            if attachment is not None and attachment.state is not model.AttachmentState.CRASHED:
                # Its subject is the volume, so that whoever calls next about that finds it if it has to stay open.
                kind, subject = live_capture.KIND, volume.uid
                payload[attach.ATTACHMENT] = attachment.uid
            return journal.open_intent(tx, kind, subject, payload, core.now(), operation.uid)

    def _capturable(self, tx: db.Transaction, volume_uid: str, environment_id: str, spec: SnapshotSpec) -> model.Volume:
        """Return the volume as it is now, if it can be captured."""
        volume = volumes.by_uid(tx.connection, volume_uid)
        if volume is None:
            raise errors.NotFound(resource_type="volume", name=names.volume(environment_id, volume_uid))
        name = names.volume(environment_id, volume.id)
        states.require_volume("CreateSnapshot (rapid)" if spec.rapid else "CreateSnapshot", name, volume.state)
        assert volume.head_layer is not None
        self._core.pool.require_room()
        self._core.require_depth(name, volume.head_layer)
        return volume

    def _retention(self, environment: model.Environment, own: datetime.timedelta | None) -> datetime.timedelta:
        if own is not None:
            return own
        return self._core.settings.default_retention if environment.retention is None else environment.retention

    def _again(self, earlier: tuple[str, model.Operation | None]) -> tuple[model.Snapshot, model.Operation]:
        """Return what the first try of a request made, as it is now."""
        uid, operation = earlier
        snapshot = snapshots.by_uid(self._core.catalog.reader(), uid)
        if snapshot is None or operation is None:
            raise errors.NotFound(resource_type="snapshot", name="" if operation is None else operation.target)
        return self._live(snapshot), self._core.with_progress(operation)

    def update(
        self, request: model.Request, environment_id: str, snapshot_id: str, etag: str, changes: Mapping[str, Any]
    ) -> model.Snapshot:
        """Change display_name, labels or retention. Raises errors.NotFound, errors.EtagMismatch, errors.WrongState."""
        core = self._core
        with core.catalog.transaction() as tx:
            snapshot = lookup.snapshot(tx.connection, environment_id, snapshot_id)
            if lookup.earlier(tx.connection, request) is not None:
                return self._live(snapshot)
            name = names.snapshot(environment_id, snapshot_id)
            lookup.require_etag(name, snapshot.revision, etag)
            states.require_snapshot("UpdateSnapshot", name, snapshot.state)
            updated = lookup.changed(snapshot, changes, now=core.now())
            if "retention" in changes:
                updated = self._rescheduled(tx, updated)
            # Somebody has looked at it.
            snapshots.put(tx, dataclasses.replace(updated, recovered=False))
            lookup.remember(tx, request, snapshot.uid, core.now())
        return self.get(environment_id, snapshot_id)

    def _rescheduled(self, tx: db.Transaction, snapshot: model.Snapshot) -> model.Snapshot:
        """Return a rapid snapshot with the due time that its retention gives."""
        if not snapshot.rapid or snapshot.archive.state is not model.ArchiveState.SCHEDULED:
            raise errors.WrongState(
                name=names.snapshot(snapshot.environment, snapshot.id),
                state="archived or being archived",
                method="UpdateSnapshot",
                allowed="rapid and waiting, to change its retention",
            )
        environment = environments.by_uid(tx.connection, snapshot.environment_uid)
        assert environment is not None
        due = snapshot.captured + self._retention(environment, snapshot.retention)
        archive = dataclasses.replace(snapshot.archive, due=due, next_attempt=due)
        return dataclasses.replace(snapshot, archive=archive)

    def archive(
        self, request: model.Request, environment_id: str, snapshot_id: str, etag: str
    ) -> tuple[model.Snapshot, model.Operation]:
        """Have a snapshot archived now, also one whose archiving was given up; it goes on after this returns.

        One that is archived answers with an operation that is done. Raises errors.NotFound, errors.EtagMismatch,
        errors.WrongState.
        """
        core = self._core
        with core.catalog.transaction() as tx:
            earlier = lookup.earlier(tx.connection, request)
            if earlier is None:
                snapshot = lookup.snapshot(tx.connection, environment_id, snapshot_id)
                name = names.snapshot(environment_id, snapshot_id)
                lookup.require_etag(name, snapshot.revision, etag)
                states.require_snapshot("ArchiveSnapshot", name, snapshot.state)
                environment = lookup.environment(tx.connection, environment_id)
                operation = core.new_operation("ArchiveSnapshot", environment, name, snapshot.uid)
                lookup.accept(tx, request, operation, snapshot.uid)
                self._expedite(tx, snapshot, operation)
                earlier = snapshot.uid, operation
        uid, operation_made = earlier
        return self._again((uid, None if operation_made is None else core.operation(operation_made.uid)))

    def _expedite(self, tx: db.Transaction, snapshot: model.Snapshot, operation: model.Operation) -> None:
        now = self._core.now()
        archive = snapshot.archive
        if archive.state is model.ArchiveState.ARCHIVED:
            operations.end(tx, operation.uid, now)
        elif archive.state is not model.ArchiveState.ARCHIVING:
            layer = points.get(tx.connection, snapshot.point).layer
            again = dataclasses.replace(
                archive,
                state=model.ArchiveState.SCHEDULED,
                next_attempt=now,
                error=None,
                urgent=True,
                estimated_bytes=self._core.estimate(tx.connection, layer, snapshot.environment_uid, now),
            )
            state = model.SnapshotState.COMPLETED if snapshot.rapid else model.SnapshotState.IN_PROGRESS
            snapshots.put(tx, dataclasses.replace(snapshot, archive=again, state=state, error=None, updated=now))
            volumes.touch(tx, snapshot.volume_uid, now)

    def delete(
        self, request: model.Request, environment_id: str, snapshot_id: str, etag: str, allow_missing: bool
    ) -> tuple[model.Snapshot | None, model.Operation | None]:
        """Delete a snapshot; it may go on after this returns. Clones of it stay.

        Raises errors.NotFound unless allow_missing, errors.EtagMismatch, errors.WrongState, errors.SnapshotAttached.
        """
        core = self._core
        try:
            with core.catalog.transaction() as tx:
                earlier = lookup.earlier(tx.connection, request)
                if earlier is not None:
                    return snapshots.by_uid(tx.connection, earlier[0]), earlier[1]
                snapshot = lookup.snapshot(tx.connection, environment_id, snapshot_id)
                name = names.snapshot(environment_id, snapshot_id)
                lookup.require_etag(name, snapshot.revision, etag)
                states.require_snapshot("DeleteSnapshot", name, snapshot.state)
                if attachments.of_disk(tx.connection, snapshot.uid) is not None:
                    raise errors.SnapshotAttached(name=name)
                environment = lookup.environment(tx.connection, environment_id)
                operation = core.new_operation("DeleteSnapshot", environment, name, snapshot.uid)
                lookup.accept(tx, request, operation, snapshot.uid)
                intent, destroying = begin_deletion(tx, core, snapshot, operation.uid)
        except errors.NotFound:
            if allow_missing:
                return None, None
            raise
        self._jobs.submit(intent)
        return destroying, core.with_progress(operation)


def begin_deletion(
    tx: db.Transaction, core: cores.Core, snapshot: model.Snapshot, operation: str
) -> tuple[model.Intent, model.Snapshot]:
    """Open the intent to delete a snapshot; return it and the snapshot as it is from then on."""
    now = core.now()
    intent = journal.open_intent(tx, delete_snapshot.KIND, snapshot.uid, {}, now, operation)
    archive = dataclasses.replace(snapshot.archive, next_attempt=None)
    destroying = dataclasses.replace(snapshot, state=model.SnapshotState.DESTROYING, archive=archive, updated=now)
    snapshots.put(tx, destroying)
    volumes.touch(tx, snapshot.volume_uid, now)
    return intent, destroying
