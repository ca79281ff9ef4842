"""Volumes: creation, listing, revert, deletion."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from snapd import errors, model
from snapd.catalog import attachments, db, journal, layers, points, volumes
from snapd.service import core as cores
from snapd.service import heads as heading
from snapd.service import jobs as running
from snapd.service import lookup, names, restoring, states, uploads
from snapd.service.intents import create_volume, delete_volume, import_volume, revert


@dataclasses.dataclass(frozen=True, slots=True)
class VolumeSpec:
    """What a new volume is to be."""

    display_name: str
    labels: Mapping[str, str]
    role: model.VolumeRole
    instance: str
    size_bytes: int
    """0 takes the source's."""
    source_snapshot_id: str
    """'' makes an empty one, or a copy of what lies at `source_place`."""
    source_place: model.ArchivePlace | None = None


def fresh_volume(
    core: cores.Core,
    tx: db.Transaction,
    environment: model.Environment,
    volume_id: str,
    spec: VolumeSpec,
    size_bytes: int,
) -> model.Volume:
    """Return a volume in CREATING that is yet to be stored. Raises errors.AlreadyExists if its id is taken."""
    volume_id = volume_id or names.generated_volume_id()
    if volumes.find(tx.connection, environment.uid, volume_id) is not None:
        raise errors.AlreadyExists(resource_type="volume", name=names.volume(environment.id, volume_id))
    now = core.now()
    return model.Volume(
        uid=names.new_uid(),
        environment_uid=environment.uid,
        environment=environment.id,
        id=volume_id,
        display_name=spec.display_name or volume_id,
        labels=spec.labels,
        role=spec.role,
        instance=spec.instance,
        size_bytes=size_bytes,
        state=model.VolumeState.CREATING,
        error=None,
        source_snapshot=_source_name(environment, spec),
        head_layer=None,
        parent_point=None,
        created=now,
        updated=now,
        revision=0,
    )


def _source_name(environment: model.Environment, spec: VolumeSpec) -> str:
    if spec.source_place is not None:
        return spec.source_place.name
    return names.snapshot(environment.id, spec.source_snapshot_id) if spec.source_snapshot_id else ""


class Volumes:
    """The volumes of all environments."""

    def __init__(
        self, core: cores.Core, jobs: running.Jobs, heads: heading.Heads, active_uploads: uploads.Active
    ) -> None:
        self._core = core
        self._jobs = jobs
        self._heads = heads
        self._active_uploads = active_uploads

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, environment_id: str, volume_id: str) -> model.Volume:
        """Return a volume. Raises errors.NotFound."""
        return lookup.volume(self._core.catalog.reader(), environment_id, volume_id)

    def list(self, query: model.Query) -> model.Page[model.Volume]:
        """Return one page. Raises errors.NotFound, errors.InvalidFilter, errors.InvalidPageToken."""
        reader = self._core.catalog.reader()
        return volumes.page(reader, query, lookup.scope(reader, query))

    def space(self, volume: model.Volume) -> model.Space:
        """Return what a volume takes on primary storage."""
        return self._core.space(volume.head_layer)

    # --- changing -----------------------------------------------------------------------------------------------------

    def create(
        self, request: model.Request, environment_id: str, volume_id: str, spec: VolumeSpec
    ) -> tuple[model.Volume, model.Operation]:
        """Create an empty volume, a linked clone of a snapshot or a copy of an archived one.

        A clone may, and a copy does, go on after this returns. Raises errors.NotFound, errors.AlreadyExists,
        errors.InvalidField, errors.WrongState, errors.PoolFull, errors.ChainDepth; for a copy what
        archive.repository.Repository.manifest raises.
        """
        core = self._core
        archived_bytes = self._archived_bytes(request, spec)
        with core.catalog.transaction() as tx:
            earlier = lookup.earlier(tx.connection, request)
            if earlier is not None:
                return self._again(tx, earlier)
            core.pool.require_room()
            environment = lookup.environment(tx.connection, environment_id)
            source = self._source(tx, environment_id, spec)
            size_bytes = (archived_bytes or spec.size_bytes) if source is None else source.size_bytes
            volume = fresh_volume(core, tx, environment, volume_id, spec, size_bytes)
            volumes.put(tx, volume)
            name = names.volume(environment.id, volume.id)
            operation = core.new_operation("CreateVolume", environment, name, volume.uid)
            lookup.accept(tx, request, operation, volume.uid)
            payload = self._reserve(tx, name, source, spec.source_place, size_bytes)
            intent = journal.open_intent(tx, create_volume.KIND, volume.uid, payload, core.now(), operation.uid)
        self._begin(intent)
        return self._present(volume.uid, operation)

    def _archived_bytes(self, request: model.Request, spec: VolumeSpec) -> int:
        """Return the size of the archived snapshot that is to be copied, 0 if none is, before anything is locked."""
        place = spec.source_place
        if place is None or lookup.earlier(self._core.catalog.reader(), request) is not None:
            return 0
        found = self._core.repository.manifest(place.environment_uid, place.snapshot_uid, place.host)
        if spec.size_bytes not in (0, found.size_bytes):
            raise errors.InvalidField(
                field="volume.size_bytes", problem=f"must be unset or the snapshot's, {found.size_bytes}"
            )
        return found.size_bytes

    def _again(
        self, tx: db.Transaction, earlier: tuple[str, model.Operation | None]
    ) -> tuple[model.Volume, model.Operation]:
        """Return what the first try of a request made, as it is now."""
        uid, operation = earlier
        volume = volumes.by_uid(tx.connection, uid)
        if volume is None or operation is None:
            raise errors.NotFound(resource_type="volume", name="" if operation is None else operation.target)
        return volume, operation

    def _source(self, tx: db.Transaction, environment_id: str, spec: VolumeSpec) -> model.Snapshot | None:
        if not spec.source_snapshot_id:
            if spec.size_bytes <= 0 and spec.source_place is None:
                raise errors.InvalidField(field="volume.size_bytes", problem="must be positive for an empty volume")
            return None
        snapshot = lookup.snapshot(tx.connection, environment_id, spec.source_snapshot_id)
        name = names.snapshot(environment_id, snapshot.id)
        states.require_snapshot("CreateVolume", name, snapshot.state)
        if spec.size_bytes not in (0, snapshot.size_bytes):
            raise errors.InvalidField(
                field="volume.size_bytes", problem=f"must be unset or the snapshot's, {snapshot.size_bytes}"
            )
        return snapshot

    def _reserve(
        self,
        tx: db.Transaction,
        name: str,
        source: model.Snapshot | None,
        place: model.ArchivePlace | None,
        size_bytes: int,
    ) -> dict[str, str]:
        """Insert the rows of the layers that will be made, and return the payload that names them."""
        core = self._core
        parent, restored = None, ""
        if source is not None:
            point = points.get(tx.connection, source.point)
            parent = point.layer
            restored = restoring.reserve(tx, core, point)
            if parent is not None:
                core.require_depth(name, parent)
        head = core.new_layer(parent, size_bytes)
        layers.insert(tx, head)
        payload = {
            create_volume.HEAD: head.uid,
            create_volume.POINT: "" if source is None else source.point,
            create_volume.RESTORED: restored,
            create_volume.PLACE: place.path if place is not None else "",
        }
        return payload if restored or place is not None else payload | {running.INLINE: "1"}

    def _begin(self, intent: model.Intent) -> None:
        if running.INLINE in intent.payload:
            self._jobs.run_now(intent)
        else:
            self._jobs.submit(intent)

    def _present(self, uid: str, operation: model.Operation) -> tuple[model.Volume, model.Operation]:
        reader = self._core.catalog.reader()
        found = volumes.by_uid(reader, uid)
        if found is None:
            raise errors.NotFound(resource_type="volume", name=operation.target)
        return found, self._core.operation(operation.uid)

    def update(
        self, request: model.Request, environment_id: str, volume_id: str, etag: str, changes: Mapping[str, Any]
    ) -> model.Volume:
        """Change display_name, labels or instance. Raises errors.NotFound, errors.EtagMismatch, errors.WrongState."""
        core = self._core
        with core.catalog.transaction() as tx:
            volume = lookup.volume(tx.connection, environment_id, volume_id)
            if lookup.earlier(tx.connection, request) is not None:
                return volume
            name = names.volume(environment_id, volume_id)
            lookup.require_etag(name, volume.revision, etag)
            states.require_volume("UpdateVolume", name, volume.state)
            changed = lookup.changed(volume, changes, now=core.now())
            # Somebody has looked at it.
            volumes.put(tx, dataclasses.replace(changed, recovered=False))
            lookup.remember(tx, request, volume.uid, core.now())
        return self.get(environment_id, volume_id)

    def revert(
        self, request: model.Request, environment_id: str, volume_id: str, snapshot_id: str, etag: str
    ) -> tuple[model.Volume, model.Operation]:
        """Put a volume back to one of its snapshots; it may go on after this returns.

        Raises errors.NotFound, errors.WrongState, errors.VolumeAttached, errors.SnapshotOfAnotherVolume,
        errors.EtagMismatch, errors.PoolFull.
        """
        core = self._core
        uid = self.get(environment_id, volume_id).uid
        with core.locks.holding(uid):
            self._heads.close(uid)
            with core.catalog.transaction() as tx:
                earlier = lookup.earlier(tx.connection, request)
                if earlier is not None:
                    return self._again(tx, earlier)
                volume = self._still(tx, environment_id, volume_id, uid)
                name = names.volume(environment_id, volume_id)
                lookup.require_etag(name, volume.revision, etag)
                states.require_volume("RevertVolume", name, volume.state)
                core.require_detached(volume.uid)
                snapshot = self._own_snapshot(tx, volume, environment_id, snapshot_id)
                core.pool.require_room()
                environment = lookup.environment(tx.connection, environment_id)
                operation = core.new_operation("RevertVolume", environment, name, volume.uid)
                lookup.accept(tx, request, operation, volume.uid)
                payload = self._reserve(tx, name, snapshot, None, snapshot.size_bytes)
                now = core.now()
                intent = journal.open_intent(tx, revert.KIND, volume.uid, payload, now, operation.uid)
                reverting = dataclasses.replace(volume, state=model.VolumeState.REVERTING, updated=now)
                volumes.put(tx, reverting)
            self._begin(intent)
        return self._present(uid, operation)

    def _own_snapshot(
        self, tx: db.Transaction, volume: model.Volume, environment_id: str, snapshot_id: str
    ) -> model.Snapshot:
        snapshot = lookup.snapshot(tx.connection, environment_id, snapshot_id)
        name = names.snapshot(environment_id, snapshot.id)
        if snapshot.volume_uid != volume.uid:
            raise errors.SnapshotOfAnotherVolume(snapshot=name, volume=names.volume(environment_id, volume.id))
        states.require_snapshot("RevertVolume", name, snapshot.state)
        return snapshot

    def delete(
        self, request: model.Request, environment_id: str, volume_id: str, etag: str, allow_missing: bool
    ) -> tuple[model.Volume | None, model.Operation | None]:
        """Delete a volume. Its snapshots stay. What it was is returned, or None if it is long gone.

        An upload that would have made it is cut. Raises errors.NotFound unless allow_missing, errors.EtagMismatch,
        errors.WrongState, errors.VolumeAttached.
        """
        core = self._core
        earlier = lookup.earlier(core.catalog.reader(), request)
        if earlier is not None:
            return volumes.by_uid(core.catalog.reader(), earlier[0]), earlier[1]
        try:
            uid = self.get(environment_id, volume_id).uid
        except errors.NotFound:
            if allow_missing:
                return None, None
            raise
        self._active_uploads.interrupt(uid)
        with core.locks.holding(uid), self._active_uploads.held_off(uid) as unclaimed:
            with core.catalog.transaction() as tx:
                earlier = lookup.earlier(tx.connection, request)
                if earlier is not None:
                    return volumes.by_uid(tx.connection, earlier[0]), earlier[1]
                volume = self._still(tx, environment_id, volume_id, uid)
                name = names.volume(environment_id, volume_id)
                lookup.require_etag(name, volume.revision, etag)
                self._require_deletable(tx, volume, name, unclaimed)
                environment = lookup.environment(tx.connection, environment_id)
                operation = core.new_operation("DeleteVolume", environment, name, volume.uid)
                lookup.accept(tx, request, operation, volume.uid)
                now = core.now()
                intent = journal.open_intent(tx, delete_volume.KIND, volume.uid, {}, now, operation.uid)
                destroying = dataclasses.replace(volume, state=model.VolumeState.DESTROYING, updated=now)
                volumes.put(tx, destroying)
            self._jobs.run_now(intent)
        return destroying, core.operation(operation.uid)

    def _still(self, tx: db.Transaction, environment_id: str, volume_id: str, uid: str) -> model.Volume:
        """Return the volume whose mutex is held. Raises errors.NotFound if another one has its id by now."""
        volume = lookup.volume(tx.connection, environment_id, volume_id)
        if volume.uid != uid:
            raise errors.NotFound(resource_type="volume", name=names.volume(environment_id, volume_id))
        return volume

    def _require_deletable(self, tx: db.Transaction, volume: model.Volume, name: str, unclaimed: bool) -> None:
        states.require_volume("DeleteVolume", name, volume.state)
        if attachments.of_disk(tx.connection, volume.uid) is not None:
            raise errors.VolumeAttached(name=name)
        if volume.state is not model.VolumeState.CREATING:
            return
        kinds = {intent.kind for intent in journal.intents_of(tx.connection, volume.uid)}
        if kinds != {import_volume.UPLOAD} or not unclaimed:
            raise errors.WrongState(
                name=name, state="being made", method="DeleteVolume", allowed="ready, or its operation cancelled"
            )
