"""Revert a volume in place: a new head on the point of one of its snapshots, instead of the old head.

intent    volume REVERTING, head's row CREATING, maybe a row for the restored point, operation, request
step 1    a point that has left primary storage is restored                point restore.before_publish
step 2    the new head's file is made and published                        point pool.layer_written
commit    new head HEAD, old one let go, volume READY on that point        points revert.before_commit, .committed
undo      the new layers are doomed; the volume is as it was
"""

import dataclasses

from snapd import fsops, model
from snapd.catalog import db, journal, layers, operations, points, volumes
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import descriptions, restoring

KIND = "revert"

POINT = "point"
"""Payload: uid of the point to go back to."""
RESTORED = "restored"
"""Payload: uid of the layer reserved for the restored point, or ''."""
HEAD = "head"
"""Payload: uid of the new head."""


class Handler:
    """The steps."""

    reversible = True

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Revert. The volume is REVERTING, so nobody else writes it or captures it."""
        core = self._core
        point, head, restored = intent.payload[POINT], intent.payload[HEAD], intent.payload[RESTORED]
        with restoring.on_primary(core, point, restored, head, control) as parent:
            layer = dataclasses.replace(layers.get(core.catalog.reader(), head), parent=parent)
            core.pool.create(layer, self._description(intent, parent))
            fsops.point("revert.before_commit")
            control.check()
            with core.catalog.transaction() as tx:
                kept = self._commit(tx, intent, parent)
        fsops.point("revert.committed")
        core.hints.layer(kept)
        core.sweep()

    def _description(self, intent: model.Intent, parent: str) -> bytes:
        reader = self._core.catalog.reader()
        volume = volumes.by_uid(reader, intent.subject)
        assert volume is not None
        stand = descriptions.stand_on(points.get(reader, intent.payload[POINT]), parent)
        return descriptions.encode_head(descriptions.Head(intent.number, descriptions.owner_of(volume), stand, None))

    def _commit(self, tx: db.Transaction, intent: model.Intent, parent: str) -> str | None:
        """Make it visible; return the uid of the layer below the old head that stays for others, if one does."""
        now = self._core.now()
        point, head = intent.payload[POINT], intent.payload[HEAD]
        volume = volumes.by_uid(tx.connection, intent.subject)
        assert volume is not None
        restoring.attach(tx, point, parent, intent.payload[RESTORED])
        layers.set_parent(tx, head, parent)
        layers.set_state(tx, head, model.LayerState.HEAD)
        target = points.get(tx.connection, point)
        reverted = dataclasses.replace(
            volume,
            state=model.VolumeState.READY,
            size_bytes=target.size_bytes,
            head_layer=head,
            parent_point=point,
            updated=now,
        )
        volumes.put(tx, reverted)
        kept = layers.doom_unneeded(tx, volume.head_layer)
        points.forget_unused(tx, volume.parent_point)
        operations.end(tx, intent.operation, now)
        journal.close_intent(tx, intent)
        return kept

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Doom the new layers; the old head was never touched."""
        del problem
        restoring.withdraw(tx, intent.payload[HEAD], intent.payload[RESTORED])
        volume = volumes.by_uid(tx.connection, intent.subject)
        assert volume is not None
        volumes.put(tx, dataclasses.replace(volume, state=model.VolumeState.READY, updated=self._core.now()))
