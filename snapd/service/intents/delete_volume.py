"""Delete a volume. Its snapshots stay.

intent    volume DESTROYING, operation, request
step 1    a writer is abandoned; an unfinished upload's staging file is removed
commit    volume gone, head let go                                         points delete_volume.…
undo      the volume is FAILED, and can be deleted again
"""

import dataclasses

from snapd import errors, fsops, model
from snapd.catalog import db, journal, layers, operations, points, volumes
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import heads as heading
from snapd.service import names, problems
from snapd.service.intents import import_volume

KIND = "delete_volume"


class Handler:
    """The steps."""

    reversible = True

    def __init__(self, core: cores.Core, heads: heading.Heads) -> None:
        self._core = core
        self._heads = heads

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Delete. The caller holds the volume's mutex, or is recovery."""
        del control
        core = self._core
        self._heads.abandon(intent.subject)
        core.pool.remove_staging(intent.subject)
        fsops.point("delete_volume.before_commit")
        with core.catalog.transaction() as tx:
            volume = volumes.by_uid(tx.connection, intent.subject)
            assert volume is not None
            for other in journal.intents_of(tx.connection, volume.uid):
                # This one, a write whose leaks nobody has to repair any more, or an unfinished upload.
                journal.close_intent(tx, other)
                if other.kind == import_volume.UPLOAD:
                    self._end_upload(tx, other, volume)
            volumes.remove(tx, volume, core.now())
            kept = layers.doom_unneeded(tx, volume.head_layer)
            points.forget_unused(tx, volume.parent_point)
            operations.end(tx, intent.operation, core.now())
        fsops.point("delete_volume.committed")
        core.hints.layer(kept)
        core.sweep()

    def _end_upload(self, tx: db.Transaction, upload: model.Intent, volume: model.Volume) -> None:
        cancelled = errors.OperationCancelled(name=names.volume(volume.environment, volume.id))
        operations.end(tx, upload.operation, self._core.now(), problems.describe(cancelled))
        if upload.payload[import_volume.HEAD]:
            layers.doom(tx, upload.payload[import_volume.HEAD])

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Fail the volume, so that it can be deleted again."""
        volume = volumes.by_uid(tx.connection, intent.subject)
        assert volume is not None
        failed = dataclasses.replace(volume, state=model.VolumeState.FAILED, error=problem, updated=self._core.now())
        volumes.put(tx, failed)
