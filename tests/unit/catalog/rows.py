"""Rows for tests of the catalog: complete resources with as little said as possible."""

import datetime

from snapd import model
from snapd.catalog import db, environments, layers, points, snapshots, volumes

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
SIZE = 1 << 20


def environment(tx: db.Transaction, uid: str = "env", created: datetime.datetime = NOW) -> None:
    """Insert an environment whose id is its uid."""
    environments.put(tx, model.Environment(uid, uid, uid, {}, None, created, created, 0))


def volume(
    tx: db.Transaction,
    uid: str,
    head: str | None = None,
    point: str | None = None,
    *,
    environment_uid: str = "env",
    created: datetime.datetime = NOW,
    size_bytes: int = SIZE,
    labels: model.Labels | None = None,
    state: model.VolumeState = model.VolumeState.READY,
) -> model.Volume:
    """Insert a volume whose id is its uid."""
    made = model.Volume(
        uid=uid,
        environment_uid=environment_uid,
        environment=environment_uid,
        id=uid,
        display_name=uid,
        labels=labels or {},
        role=model.VolumeRole.DATA,
        instance="",
        size_bytes=size_bytes,
        state=state,
        error=None,
        source_snapshot="",
        head_layer=head,
        parent_point=point,
        created=created,
        updated=created,
        revision=0,
    )
    volumes.put(tx, made)
    return made


def layer(
    tx: db.Transaction, uid: str, parent: str | None = None, state: model.LayerState = model.LayerState.FROZEN
) -> None:
    """Insert a layer."""
    layers.insert(tx, model.Layer(uid, parent, SIZE, state, NOW))


def point(
    tx: db.Transaction, uid: str, parent: str | None = None, layer_uid: str | None = None, *, recorded: bool = False
) -> None:
    """Insert a point."""
    points.insert(tx, model.Point(uid, "env", parent, layer_uid, SIZE, recorded, NOW))


def snapshot(
    tx: db.Transaction,
    uid: str,
    point_uid: str,
    *,
    archived: bool = False,
    volume_uid: str = "volume",
    state: model.SnapshotState = model.SnapshotState.COMPLETED,
    next_attempt: datetime.datetime | None = None,
    environment_uid: str = "env",
    urgent: bool = False,
    estimated_bytes: int = 0,
) -> model.Snapshot:
    """Insert a snapshot whose id is its uid."""
    archive_state = model.ArchiveState.ARCHIVED if archived else model.ArchiveState.SCHEDULED
    made = model.Snapshot(
        uid=uid,
        environment_uid=environment_uid,
        environment=environment_uid,
        id=uid,
        display_name=uid,
        labels={},
        volume=volume_uid,
        volume_uid=volume_uid,
        point=point_uid,
        size_bytes=SIZE,
        state=state,
        error=None,
        requested_rapid=True,
        rapid=not archived,
        retention=None,
        archive=model.Archive(
            archive_state, NOW, next_attempt, None, 0, None, 0, urgent=urgent, estimated_bytes=estimated_bytes
        ),
        health=model.HealthState.OK,
        captured=NOW,
        created=NOW,
        updated=NOW,
        revision=0,
    )
    snapshots.put(tx, made)
    return made
