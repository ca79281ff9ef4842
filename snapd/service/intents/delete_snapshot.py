"""Delete a snapshot. What stands on it, clones and later points, keeps its layer and its history.

intent    snapshot DESTROYING, operation, request                          point delete_snapshot.begun
step 1    its archive run is stopped                                       point delete_snapshot.run_stopped
step 2    its manifest is removed                                          points archive.tombstone-written,
                                                                                  archive.removed,
                                                                                  delete_snapshot.manifest_removed
step 3    its point's delta is recorded for those that follow it           points history.delta_recorded,
                                                                                  delete_snapshot.before_commit
commit    snapshot gone, its layer let go                                  point delete_snapshot.committed
undo      the snapshot is FAILED, and can be deleted again
"""

from collections.abc import Callable

from snapd import errors, fsops, model
from snapd.catalog import db, journal, layers, operations, points, snapshots, volumes
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import history, names, problems

KIND = "delete_snapshot"

StopRun = Callable[[str], None]
"""Stops the archive run of a snapshot, by its uid, and returns when it has come to rest."""


class Handler:
    """The steps."""

    reversible = True

    def __init__(self, core: cores.Core, stop_run: StopRun) -> None:
        self._core = core
        self._stop_run = stop_run

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Delete."""
        del control
        core = self._core
        self._stop_run(intent.subject)
        fsops.point("delete_snapshot.run_stopped")
        snapshot = snapshots.by_uid(core.catalog.reader(), intent.subject)
        assert snapshot is not None
        # Whoever restores the point has the manifest until a head stands on what was restored.
        with core.locks.holding(snapshot.point):
            self._remove_manifest(snapshot)
            fsops.point("delete_snapshot.manifest_removed")
            self._keep_history(snapshot.point)
            fsops.point("delete_snapshot.before_commit")
            with core.catalog.transaction() as tx:
                kept = self._commit(tx, intent, snapshot)
        fsops.point("delete_snapshot.committed")
        core.hints.layer(kept)
        core.hints.environment(snapshot.environment_uid)
        core.sweep()

    def _remove_manifest(self, snapshot: model.Snapshot) -> None:
        """Remove what the archive has of it; of one that was never tried to be archived that is nothing."""
        try:
            self._core.repository.delete_snapshot(snapshot.environment_uid, snapshot.uid)
        except (errors.Unavailable, errors.FailedPrecondition):
            if snapshot.archive.attempts or snapshot.archive.state is model.ArchiveState.ARCHIVED:
                raise

    def _keep_history(self, point_uid: str) -> None:
        """Record the delta of a point that others follow."""
        if points.is_followed(self._core.catalog.reader(), point_uid):
            history.record_delta(self._core, point_uid)

    def _commit(self, tx: db.Transaction, intent: model.Intent, snapshot: model.Snapshot) -> str | None:
        """Make it visible; return the uid of the layer that stays for others, if one does."""
        now = self._core.now()
        snapshots.remove(tx, snapshot, now)
        if snapshot.state is model.SnapshotState.DESTROYING:
            volumes.touch(tx, snapshot.volume_uid, now)
        kept = layers.doom_unneeded(tx, points.get(tx.connection, snapshot.point).layer)
        points.forget_unused(tx, snapshot.point)
        cancelled = problems.describe(errors.OperationCancelled(name=names.snapshot(snapshot.environment, snapshot.id)))
        operations.end(tx, intent.operation, now)
        for other in operations.running_on(tx.connection, snapshot.uid):
            operations.end(tx, other.uid, now, cancelled)
        for open_intent in journal.intents_of(tx.connection, snapshot.uid):
            # This one, and an archive run that was stopped before it began.
            journal.close_intent(tx, open_intent)
        return kept

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Fail the snapshot, so that it can be deleted again."""
        snapshot = snapshots.by_uid(tx.connection, intent.subject)
        assert snapshot is not None
        snapshots.fail(tx, snapshot, problem, self._core.now())
