"""Archive a snapshot: its contents into packs and a manifest, proven, and its layer let go.

intent    archive ARCHIVING                                                point archive.begun
step 1    what differs from the nearest archived ancestor is put            points archive.pack-finished
step 2    all packs are proven                                             points archive.before-proof,
                                                                                  archive.after-proof
step 3    the manifest is published                                        points archive.before-manifest,
                                                                                  archive.after-manifest
step 4    the point's delta is recorded                                    points history.delta_recorded,
                                                                                  archive_run.before_commit
commit    archive ARCHIVED, rapid off, COMPLETED, layer let go              point archive_run.committed
undo      archive SCHEDULED again with back-off, or FAILED for good
paused    archive SCHEDULED again, in its old place; that a run was begun is not forgotten
"""

import dataclasses
import datetime
import logging
import random

from snapd import errors, fsops, model
from snapd.archive import manifest as manifests
from snapd.catalog import db, journal, layers, operations, points, snapshots, volumes
from snapd.copier import control as controls
from snapd.copier import record
from snapd.service import core as cores
from snapd.service import descriptions, history, names

KIND = "archive"

_log = logging.getLogger(__name__)

_PASSING = frozenset({errors.Unavailable.__name__, errors.ResourceExhausted.__name__})
_LONGEST_EXPONENT = 20
_JITTER = 0.25


class Handler:
    """The steps."""

    reversible = True

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Archive."""
        core = self._core
        snapshot = snapshots.by_uid(core.catalog.reader(), intent.subject)
        if snapshot is None:
            # It was deleted while this waited for its turn, and the deletion has ended the intent.
            return
        if snapshot.state is model.SnapshotState.DESTROYING:
            # The deletion looked for a run to stop before this one could be seen; one that is seen is stopped.
            raise errors.OperationCancelled(name=names.snapshot(snapshot.environment, snapshot.id))
        statistics = self._stored_already(snapshot)
        if statistics is None:
            statistics = self._record(snapshot, control)
        history.record_delta(core, snapshot.point)
        fsops.point("archive_run.before_commit")
        control.check()
        with core.catalog.transaction() as tx:
            kept = self._commit(tx, intent, statistics)
        fsops.point("archive_run.committed")
        if snapshots.any_damaged(core.catalog.reader(), snapshot.environment_uid):
            # What was stored again may be what others lack.
            core.suspects.add(snapshot.environment_uid)
        core.hints.layer(kept)
        core.sweep()

    def _stored_already(self, snapshot: model.Snapshot) -> manifests.Statistics | None:
        """Return what was done if an earlier run was cut off between the manifest and the commit."""
        try:
            manifest = self._core.repository.manifest(snapshot.environment_uid, snapshot.uid)
        except errors.NotFound:
            return None
        return manifest.statistics

    def _record(self, snapshot: model.Snapshot, control: controls.Control) -> manifests.Statistics:
        """Record it over the nearest base; where that can't be used, all of it. Return what was done."""
        control.begin("PLANNING")
        point = points.get(self._core.catalog.reader(), snapshot.point)
        base = history.nearest_base(self._core, point)
        try:
            return self._record_over(base, snapshot, point, control)
        except (errors.Corrupt, errors.NotFound) as error:
            # Damaged, or deleted since it was chosen.
            if base is None:
                raise
            self._core.suspects.add(snapshot.environment_uid)
            _log.warning("archiving all of it, without its base: %s", error, extra={"snapshot": snapshot.uid})
            return self._record_over(None, snapshot, point, control)

    def _record_over(
        self, base: history.Base | None, snapshot: model.Snapshot, point: model.Point, control: controls.Control
    ) -> manifests.Statistics:
        core = self._core
        if point.layer is None:
            raise errors.Corrupt(what=f"point {point.uid}", problem="its layer is gone before it was archived")
        difference = None if base is None else history.difference(core, base)
        base_uid = None if base is None else base.snapshot_uid
        with (
            core.chain(point.layer, past_cache=True) as chain,
            # What is in finished packs stays if this fails, and the next run finds it there.
            core.repository.begin(snapshot.environment_uid, snapshot.uid, snapshot.size_bytes, base_uid) as recording,
        ):
            record.record(
                chain,
                difference,
                recording,
                core.repository.block_size,
                core.settings.copy_threads,
                control,
                core.archive_pace,
            )
            control.go_on_to("VERIFYING")
            return recording.commit(descriptions.metadata_of(snapshot, point.parent))

    def _commit(self, tx: db.Transaction, intent: model.Intent, statistics: manifests.Statistics) -> str | None:
        """Make it visible; return the uid of the layer that stays for others, if one does."""
        now = self._core.now()
        snapshot = snapshots.by_uid(tx.connection, intent.subject)
        assert snapshot is not None
        destroying = snapshot.state is model.SnapshotState.DESTROYING
        was_in_progress = snapshot.state is not model.SnapshotState.COMPLETED
        archive = dataclasses.replace(
            snapshot.archive,
            state=model.ArchiveState.ARCHIVED,
            next_attempt=None,
            archived=now,
            error=None,
            stored_bytes=statistics.bytes_stored,
            figures=_figures(statistics, self._core.repository.block_size),
        )
        done = dataclasses.replace(
            snapshot,
            state=snapshot.state if destroying else model.SnapshotState.COMPLETED,
            rapid=False,
            archive=archive,
            updated=now,
        )
        snapshots.put(tx, done)
        if was_in_progress:
            volumes.touch(tx, snapshot.volume_uid, now)
        for operation in operations.running_on(tx.connection, snapshot.uid):
            operations.end(tx, operation.uid, now)
        journal.close_intent(tx, intent)
        return layers.doom_unneeded(tx, points.get(tx.connection, snapshot.point).layer)

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Have it tried again later if that may help; otherwise give it up, with its layer kept."""
        core = self._core
        snapshot = snapshots.by_uid(tx.connection, intent.subject)
        if snapshot is None or snapshot.state is model.SnapshotState.DESTROYING:
            return
        if problem.reason == errors.OperationCancelled.reason:
            snapshots.put(tx, snapshots.waiting_again(snapshot, core.now()))
            return
        # What the archive as a whole lacks, somebody puts right; then rapid snapshots needn't be asked for one by one.
        mendable = problem.branch == errors.FailedPrecondition.__name__
        usable = snapshot.state is model.SnapshotState.COMPLETED
        passing = problem.branch in _PASSING or (mendable and usable)
        next_attempt = core.now() + backoff(core, snapshot.archive.attempts) if passing else None
        archive = dataclasses.replace(
            snapshot.archive,
            state=model.ArchiveState.SCHEDULED if passing else model.ArchiveState.FAILED,
            next_attempt=next_attempt,
            error=problem,
        )
        failed = dataclasses.replace(snapshot, archive=archive, updated=core.now())
        if not passing:
            if snapshot.state is model.SnapshotState.IN_PROGRESS:
                failed = dataclasses.replace(failed, state=model.SnapshotState.FAILED, error=problem)
                volumes.touch(tx, snapshot.volume_uid, core.now())
            for operation in operations.running_on(tx.connection, snapshot.uid):
                operations.end(tx, operation.uid, core.now(), problem)
        snapshots.put(tx, failed)


def _figures(statistics: manifests.Statistics, block_size: int) -> model.ArchiveFigures:
    """Return in bytes what a recording counted in blocks."""
    return model.ArchiveFigures(
        changed=statistics.blocks * block_size,
        read=statistics.bytes_read,
        zero=statistics.zero_blocks * block_size,
        deduplicated=statistics.deduplicated_blocks * block_size,
        new=statistics.new_blocks * block_size,
    )


def put_back(core: cores.Core, intent: model.Intent) -> None:
    """End a run that was parked by a pause: its snapshot has its old place in the queue, and its attempt isn't counted.

    The first one is: what was begun may have got as far as a manifest, which has to be looked for when the snapshot is
    deleted. What it stored in full packs is found again by the next run.
    """
    with core.catalog.transaction() as tx:
        if not journal.is_open(tx.connection, intent):
            return
        journal.close_intent(tx, intent)
        snapshot = snapshots.by_uid(tx.connection, intent.subject)
        if snapshot is None or snapshot.state is model.SnapshotState.DESTROYING:
            return
        archive = dataclasses.replace(
            snapshot.archive,
            state=model.ArchiveState.SCHEDULED,
            next_attempt=intent.created,
            attempts=max(1, snapshot.archive.attempts - 1),
        )
        snapshots.put(tx, dataclasses.replace(snapshot, archive=archive, updated=core.now()))


def backoff(core: cores.Core, attempts: int) -> datetime.timedelta:
    """Return how long to wait after a number of failed attempts: doubling, with jitter."""
    doubled: datetime.timedelta = core.settings.retry_initial * 2 ** min(max(attempts - 1, 0), _LONGEST_EXPONENT)
    return min(doubled, core.settings.retry_longest) * random.uniform(1 - _JITTER, 1 + _JITTER)


def longest_backoff(core: cores.Core) -> datetime.timedelta:
    """Return more than which `backoff` never is."""
    return core.settings.retry_longest * (1 + _JITTER)
