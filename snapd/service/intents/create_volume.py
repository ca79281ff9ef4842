"""Create a volume: an empty one, a linked clone whose head stands on a snapshot's point, or a copy from the archive.

intent    volume CREATING, head's row CREATING, maybe a row for the restored point, operation, request
step 1    a point that has left primary storage is restored                point restore.before_publish
step 2    the head's file is made and published                            point pool.layer_written
          or filled from an archived snapshot, of any host                 points restore.before_publish,
                                                                                  create_volume.fetched
commit    head HEAD, volume READY                                          point create_volume.before_commit
undo      the layers are doomed; the volume is FAILED, or gone if nobody was told of it
"""

import dataclasses

from snapd import errors, fsops, model
from snapd.catalog import db, journal, layers, operations, points, volumes
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import descriptions, health, jobs, restoring

KIND = "create_volume"

POINT = "point"
"""Payload: uid of the point on which the head stands, or ''."""
RESTORED = "restored"
"""Payload: uid of the layer reserved for the restored point, or ''."""
PLACE = "place"
"""Payload: the parts of a model.ArchivePlace with slashes between them, or ''."""
HEAD = "head"
"""Payload: uid of the head."""


class Handler:
    """The steps."""

    reversible = True

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Create."""
        point, restored = intent.payload[POINT], intent.payload[RESTORED]
        if intent.payload.get(PLACE):
            self._fetch(intent, control)
        if not point:
            self._finish(intent, None, control)
            return
        with restoring.on_primary(self._core, point, restored, intent.payload[HEAD], control) as layer:
            self._finish(intent, layer, control)
        if restored and layer != restored:
            # Somebody else brought the point back meanwhile, so the layer that was reserved for that is doomed.
            self._core.sweep()

    def _fetch(self, intent: model.Intent, control: controls.Control) -> None:
        """Fill the head from the archive, while the snapshot's host is kept from deleting what it needs."""
        core = self._core
        head = intent.payload[HEAD]
        if core.pool.is_made(head):
            return
        host, environment_uid, snapshot_uid = intent.payload[PLACE].split("/")
        place = model.ArchivePlace(host, environment_uid, snapshot_uid)
        size_bytes = layers.get(core.catalog.reader(), head).size_bytes
        with (
            health.telling(core, place.name, place, size_bytes),
            core.repository.reading(environment_uid, host),
        ):
            manifest = core.repository.manifest(environment_uid, snapshot_uid, host)
            restoring.fill(core, head, manifest, control, self._description(intent, None))
        fsops.point("create_volume.fetched")

    def _description(self, intent: model.Intent, parent: str | None) -> bytes:
        """Return what the head's header says, with the point on which it is put if that is shown by a layer."""
        reader = self._core.catalog.reader()
        volume = volumes.by_uid(reader, intent.subject)
        assert volume is not None
        stand = None
        if parent is not None:
            stand = descriptions.stand_on(points.get(reader, intent.payload[POINT]), parent)
        return descriptions.encode_head(descriptions.Head(intent.number, descriptions.owner_of(volume), stand, None))

    def _finish(self, intent: model.Intent, parent: str | None, control: controls.Control) -> None:
        core = self._core
        point, head = intent.payload[POINT], intent.payload[HEAD]
        layer = dataclasses.replace(layers.get(core.catalog.reader(), head), parent=parent)
        core.pool.create(layer, self._description(intent, parent))
        fsops.point("create_volume.before_commit")
        control.check()
        with core.catalog.transaction() as tx:
            volume = volumes.by_uid(tx.connection, intent.subject)
            assert volume is not None
            if point and parent is not None:
                restoring.attach(tx, point, parent, intent.payload[RESTORED])
            layers.set_parent(tx, head, parent)
            layers.set_state(tx, head, model.LayerState.HEAD)
            volumes.put(
                tx,
                dataclasses.replace(
                    volume,
                    state=model.VolumeState.READY,
                    head_layer=head,
                    parent_point=point or None,
                    updated=core.now(),
                ),
            )
            operations.end(tx, intent.operation, core.now())
            journal.close_intent(tx, intent)

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Doom the layers; fail the volume, or remove it if it was cancelled or nobody was told of it."""
        restoring.withdraw(tx, intent.payload[HEAD], intent.payload[RESTORED])
        withdraw_volume(tx, self._core, intent, problem)


def withdraw_volume(tx: db.Transaction, core: cores.Core, intent: model.Intent, problem: model.Problem) -> None:
    """Take back a volume that couldn't be made: gone if nobody was told of it or it was cancelled, else FAILED."""
    volume = volumes.by_uid(tx.connection, intent.subject)
    if volume is None:
        return
    if jobs.INLINE in intent.payload or problem.reason == errors.OperationCancelled.reason:
        volumes.remove(tx, volume, core.now())
    else:
        failed = dataclasses.replace(volume, state=model.VolumeState.FAILED, error=problem, updated=core.now())
        volumes.put(tx, failed)
