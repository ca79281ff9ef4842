"""Capture: freeze a volume's head as a point, and put a new head on it.

intent    overlay row CREATING, operation, request                         point capture.begun
step 1    writes that are under way are flushed                            point capture.flushed
step 2    the overlay's file is made and published                         points pool.layer_written,
                                                                                  capture.before_commit
commit    old head FROZEN, overlay HEAD, point, snapshot                   point capture.committed
undo      the overlay is doomed; nothing else was ever visible
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping

from snapd import fsops, model
from snapd.catalog import db, journal, layers, operations, points, snapshots, volumes
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import descriptions
from snapd.service import heads as heading

KIND = "capture"


@dataclasses.dataclass(frozen=True, slots=True)
class Capture:
    """What the intent holds."""

    snapshot_uid: str
    snapshot_id: str
    volume_uid: str
    overlay: str
    point: str
    rapid: bool
    display_name: str
    labels: Mapping[str, str]
    retention: datetime.timedelta | None
    """Its own."""
    due_after: datetime.timedelta
    """How long after the capture it is to be archived."""

    def encode(self) -> dict[str, str]:
        """Return it as an intent's payload."""
        return {
            "snapshot_uid": self.snapshot_uid,
            "snapshot_id": self.snapshot_id,
            "volume_uid": self.volume_uid,
            "overlay": self.overlay,
            "point": self.point,
            "rapid": "1" if self.rapid else "",
            "display_name": self.display_name,
            "labels": json.dumps(dict(self.labels)),
            "retention_s": "" if self.retention is None else repr(self.retention.total_seconds()),
            "due_after_s": repr(self.due_after.total_seconds()),
        }


def decode(payload: Mapping[str, str]) -> Capture:
    """Return what an intent's payload holds."""
    retention = payload["retention_s"]
    return Capture(
        snapshot_uid=payload["snapshot_uid"],
        snapshot_id=payload["snapshot_id"],
        volume_uid=payload["volume_uid"],
        overlay=payload["overlay"],
        point=payload["point"],
        rapid=bool(payload["rapid"]),
        display_name=payload["display_name"],
        labels=json.loads(payload["labels"]),
        retention=datetime.timedelta(seconds=float(retention)) if retention else None,
        due_after=datetime.timedelta(seconds=float(payload["due_after_s"])),
    )


class Handler:
    """The steps."""

    reversible = True

    def __init__(self, core: cores.Core, heads: heading.Heads) -> None:
        self._core = core
        self._heads = heads

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Capture. The caller holds the volume's mutex, or is recovery."""
        core = self._core
        plan = decode(intent.payload)
        self._heads.settle(plan.volume_uid)
        fsops.point("capture.flushed")
        reader = core.catalog.reader()
        volume = volumes.by_uid(reader, plan.volume_uid)
        assert volume is not None
        assert volume.head_layer is not None
        overlay = layers.get(reader, plan.overlay)
        captured = core.now()
        core.pool.create(overlay, description(intent, volume, plan, captured))
        fsops.point("capture.before_commit")
        control.check()
        with core.catalog.transaction() as tx:
            commit(core, tx, intent, plan, volume.head_layer, captured)
        fsops.point("capture.committed")
        core.pool.freeze(volume.head_layer)
        core.hints.layer(layers.get(reader, volume.head_layer).parent)

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Doom the overlay."""
        del problem
        layers.doom(tx, decode(intent.payload).overlay)


def commit(
    core: cores.Core, tx: db.Transaction, intent: model.Intent, plan: Capture, head: str, now: datetime.datetime
) -> None:
    """Freeze the head as the point of the snapshot, put the overlay in its place, and end the intent."""
    # Read anew, since its labels and the like can be changed without its mutex.
    volume = volumes.by_uid(tx.connection, plan.volume_uid)
    assert volume is not None
    layers.set_state(tx, head, model.LayerState.FROZEN)
    layers.set_state(tx, plan.overlay, model.LayerState.HEAD)
    points.insert(
        tx,
        model.Point(
            uid=plan.point,
            environment_uid=volume.environment_uid,
            parent=volume.parent_point,
            layer=head,
            size_bytes=volume.size_bytes,
            delta_recorded=False,
            created=now,
        ),
    )
    due = _due(plan, now)
    estimated_bytes = core.estimate(tx.connection, head, volume.environment_uid, due)
    snapshots.put(tx, _snapshot(volume, plan, now, due, estimated_bytes))
    volumes.put(tx, dataclasses.replace(volume, head_layer=plan.overlay, parent_point=plan.point, updated=now))
    journal.close_intent(tx, intent)
    if plan.rapid:
        operations.end(tx, intent.operation, now)


def description(intent: model.Intent, volume: model.Volume, plan: Capture, captured: datetime.datetime) -> bytes:
    """Return what the overlay's header says of itself, and of the point that it froze."""
    assert volume.head_layer is not None
    head = descriptions.Head(
        generation=intent.number,
        owner=descriptions.owner_of(volume),
        stand=descriptions.Stand(plan.point, volume.environment_uid, volume.head_layer),
        taken=descriptions.Taken(
            uid=plan.snapshot_uid,
            id=plan.snapshot_id,
            display_name=plan.display_name,
            labels=plan.labels,
            rapid=plan.rapid,
            retention=plan.retention,
            due=_due(plan, captured),
            captured=captured,
        ),
    )
    return descriptions.encode_head(head)


def _due(plan: Capture, captured: datetime.datetime) -> datetime.datetime:
    """Return when the snapshot is to be archived."""
    return captured + plan.due_after if plan.rapid else captured


def _snapshot(
    volume: model.Volume, plan: Capture, now: datetime.datetime, due: datetime.datetime, estimated_bytes: int
) -> model.Snapshot:
    return model.Snapshot(
        uid=plan.snapshot_uid,
        environment_uid=volume.environment_uid,
        environment=volume.environment,
        id=plan.snapshot_id,
        display_name=plan.display_name,
        labels=plan.labels,
        volume=volume.id,
        volume_uid=volume.uid,
        point=plan.point,
        size_bytes=volume.size_bytes,
        state=model.SnapshotState.COMPLETED if plan.rapid else model.SnapshotState.IN_PROGRESS,
        error=None,
        requested_rapid=plan.rapid,
        rapid=plan.rapid,
        retention=plan.retention,
        archive=model.Archive(
            state=model.ArchiveState.SCHEDULED,
            due=due,
            next_attempt=due,
            archived=None,
            attempts=0,
            error=None,
            stored_bytes=0,
            urgent=not plan.rapid,
            estimated_bytes=estimated_bytes,
        ),
        health=model.HealthState.OK,
        captured=now,
        created=now,
        updated=now,
        revision=0,
    )
