"""What becomes of each snapshot: archived if it has a manifest, on primary if a layer shows its point, else lost.

Those that only a header or a manifest knows are made if their contents are there, and so is one for each layer that
was frozen since the backup and whose snapshot nothing names: it may have no other.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping

from snapd import model
from snapd.archive import manifest as manifests
from snapd.service import descriptions, names
from snapd.service.rebuilding import copies, naming, survey
from snapd.service.rebuilding import evidence as evidences

_CLOCK_STEP = datetime.timedelta(minutes=1)
"""So far clocks are set back without anybody thinking of it."""
_FINAL = (model.ArchiveState.ARCHIVED, model.ArchiveState.SCHEDULED, model.ArchiveState.FAILED, model.ArchiveState.NONE)


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A snapshot of the new catalog."""

    snapshot: model.Snapshot
    with_contents: bool
    recovered: str = ""
    """What is uncertain about it, or ''."""
    lost: str = ""
    """Why it has no contents, or '' if it has, or hadn't before either."""
    layer: str = ""
    """The layer for which it was made, if it was."""


def gather(evidence: evidences.Evidence, shown: Mapping[str, str], heads: Mapping[str, str]) -> list[Found]:
    """Return all snapshots of the new catalog. shown: points by their layers; heads: volumes' uids by their heads."""
    layer_of = {point: layer for layer, point in shown.items()}
    found = {snapshot.uid: _of_base(evidence, snapshot, layer_of) for snapshot in evidence.base.snapshots.values()}
    for made in _described(evidence, layer_of, found):
        found[made.snapshot.uid] = made
    for made in _archived(evidence, found):
        found[made.snapshot.uid] = made
    named = {each.snapshot.point for each in found.values()}
    for made in _nameless(evidence, shown, heads, named):
        found[made.snapshot.uid] = made
    return list(found.values())


# --- of the backup ----------------------------------------------------------------------------------------------------


def _of_base(evidence: evidences.Evidence, snapshot: model.Snapshot, layer_of: Mapping[str, str]) -> Found:
    going = snapshot.state is model.SnapshotState.DESTROYING
    if going:
        told_then = evidences.rebuilt(_name(snapshot), "it was being deleted")
        snapshot = dataclasses.replace(snapshot, state=model.SnapshotState.FAILED, error=told_then)
    uncertain = "it was being deleted" if going else ""
    if evidence.is_archived(snapshot.uid):
        return Found(_in_archive(evidence, snapshot, going), True, uncertain)
    if snapshot.point in layer_of:
        again = snapshot.archive.state is model.ArchiveState.ARCHIVED
        told = "the archive has lost it, and it is archived anew" if again else uncertain
        return Found(_on_primary(evidence, snapshot, going), True, told)
    if (
        snapshot.state is model.SnapshotState.FAILED
        and not going
        and evidence.base.points[snapshot.point].layer is None
    ):
        # It had no contents then either, or its manifest went with a deletion that failed.
        return Found(_lost(snapshot, snapshot.error), False, uncertain)
    problem = "it was deleted after the backup, or is lost" + (
        "; it may have been archived, which wasn't looked at" if evidence.archive is None else ""
    )
    error = snapshot.error if going else evidences.rebuilt(_name(snapshot), problem)
    return Found(_lost(snapshot, error), False, uncertain or problem, problem)


def _name(snapshot: model.Snapshot) -> str:
    return names.snapshot(snapshot.environment, snapshot.id)


def _in_archive(evidence: evidences.Evidence, snapshot: model.Snapshot, going: bool) -> model.Snapshot:
    if snapshot.archive.state is model.ArchiveState.ARCHIVED:
        return snapshot
    copy = None if evidence.archive is None else evidence.archive.copies[snapshot.uid]
    archive = dataclasses.replace(
        snapshot.archive,
        state=model.ArchiveState.ARCHIVED,
        next_attempt=None,
        archived=evidence.now,
        error=None,
        urgent=False,
    )
    if copy is not None and evidence.archive is not None:
        archive = _with_figures(archive, copy.statistics, evidence.archive.block_size)
    state = snapshot.state if going else model.SnapshotState.COMPLETED
    error = snapshot.error if going else None
    return dataclasses.replace(snapshot, state=state, error=error, rapid=False, archive=archive)


def _with_figures(archive: model.Archive, statistics: manifests.Statistics, block_size: int) -> model.Archive:
    figures = model.ArchiveFigures(
        changed=statistics.blocks * block_size,
        read=statistics.bytes_read,
        zero=statistics.zero_blocks * block_size,
        deduplicated=statistics.deduplicated_blocks * block_size,
        new=statistics.new_blocks * block_size,
    )
    return dataclasses.replace(archive, stored_bytes=statistics.bytes_stored, figures=figures)


def _on_primary(evidence: evidences.Evidence, snapshot: model.Snapshot, going: bool) -> model.Snapshot:
    snapshot = _perhaps_begun(snapshot)
    if going:
        archive = dataclasses.replace(snapshot.archive, state=model.ArchiveState.NONE, next_attempt=None)
        return dataclasses.replace(snapshot, archive=archive)
    state = snapshot.archive.state
    if state is model.ArchiveState.ARCHIVED:
        archive = dataclasses.replace(
            snapshot.archive,
            state=model.ArchiveState.SCHEDULED,
            due=evidence.now,
            next_attempt=evidence.now,
            archived=None,
            error=None,
        )
        return dataclasses.replace(snapshot, rapid=True, archive=archive)
    if state in _FINAL:
        return snapshot
    # A run was under way, and is made again.
    again = snapshot.archive.due or evidence.now
    archive = dataclasses.replace(snapshot.archive, state=model.ArchiveState.SCHEDULED, next_attempt=again)
    return dataclasses.replace(snapshot, archive=archive)


def _perhaps_begun(snapshot: model.Snapshot) -> model.Snapshot:
    """Return a snapshot whose deletion looks for its manifest: it may have been archived since the backup."""
    attempts = max(1, snapshot.archive.attempts)
    return dataclasses.replace(snapshot, archive=dataclasses.replace(snapshot.archive, attempts=attempts))


def _lost(snapshot: model.Snapshot, error: model.Problem | None) -> model.Snapshot:
    """Return a snapshot without contents. It isn't rapid, so that whoever has it archived is told that it can't be."""
    snapshot = _perhaps_begun(snapshot)
    archive = dataclasses.replace(
        snapshot.archive,
        state=model.ArchiveState.FAILED,
        next_attempt=None,
        archived=None,
        error=error,
        urgent=False,
    )
    return dataclasses.replace(
        snapshot,
        state=model.SnapshotState.FAILED,
        error=error,
        rapid=False,
        archive=archive,
        health=model.HealthState.DAMAGED,
        damage=model.Damage(((0, snapshot.size_bytes),), snapshot.size_bytes),
    )


# --- of headers and manifests -----------------------------------------------------------------------------------------


def _described(
    evidence: evidences.Evidence, layer_of: Mapping[str, str], known: Mapping[str, Found]
) -> Iterator[Found]:
    """Yield the snapshots that captures since the backup took, as far as their contents are there."""
    seen: set[str] = set()
    for file in sorted(evidence.pool.layers.values(), key=lambda file: (-file.generation, file.uid)):
        head = file.described() if evidence.is_new(file) else None
        if head is None or head.taken is None or head.stand is None:
            continue
        taken, point = head.taken, head.stand.point
        # What was taken before the backup, and isn't in it, had been deleted: a fold has put it into a new header.
        if taken.uid in known or taken.uid in seen or taken.captured < evidence.base.newest - _CLOCK_STEP:
            continue
        seen.add(taken.uid)
        layer = layer_of.get(point)
        archived = evidence.is_archived(taken.uid)
        if archived or layer is not None:
            size_bytes = file.size_bytes if layer is None else evidence.pool.layers[layer].size_bytes
            snapshot = _taken(head.owner, taken, point, size_bytes)
            made = _in_archive(evidence, snapshot, going=False) if archived else snapshot
            yield Found(made, True, "it isn't in the backup; a layer's header knows it")


def _taken(owner: descriptions.Owner, taken: descriptions.Taken, point: str, size_bytes: int) -> model.Snapshot:
    snapshot_id = naming.believable_id(taken.id, "snapshot", taken.uid)
    snapshot = model.Snapshot(
        uid=taken.uid,
        environment_uid=owner.environment_uid,
        environment=owner.environment,
        id=snapshot_id,
        display_name=naming.believable_text(taken.display_name, snapshot_id),
        labels=naming.believable_labels(taken.labels),
        volume=naming.believable_id(owner.id, "volume", owner.uid),
        volume_uid=owner.uid,
        point=point,
        size_bytes=size_bytes,
        state=model.SnapshotState.COMPLETED if taken.rapid else model.SnapshotState.IN_PROGRESS,
        error=None,
        requested_rapid=taken.rapid,
        rapid=taken.rapid,
        retention=taken.retention if taken.rapid else None,
        archive=_waiting(taken.due, urgent=not taken.rapid),
        health=model.HealthState.OK,
        captured=taken.captured,
        created=taken.captured,
        updated=taken.captured,
        revision=0,
    )
    return _perhaps_begun(snapshot)


def _waiting(due: datetime.datetime, *, urgent: bool) -> model.Archive:
    return model.Archive(model.ArchiveState.SCHEDULED, due, due, None, 0, None, 0, urgent=urgent)


def _archived(evidence: evidences.Evidence, known: Mapping[str, Found]) -> Iterator[Found]:
    """Yield the snapshots that only their manifests know."""
    for copy in () if evidence.archive is None else evidence.archive.copies.values():
        if copy.uid not in known and copy.archived is not None:
            snapshot = _in_archive(evidence, _of_manifest(copy, copy.archived), going=False)
            yield Found(snapshot, True, "it isn't in the backup; its manifest knows it")


def _of_manifest(copy: copies.Copy, archived: descriptions.Archived) -> model.Snapshot:
    snapshot_id = naming.believable_id(archived.id, "snapshot", copy.uid)
    return model.Snapshot(
        uid=copy.uid,
        environment_uid=copy.environment_uid,
        environment=archived.environment,
        id=snapshot_id,
        display_name=naming.believable_text(archived.display_name, snapshot_id),
        labels=naming.believable_labels(archived.labels),
        volume=naming.believable_id(archived.volume, "volume", archived.volume_uid),
        volume_uid=archived.volume_uid,
        point=archived.point,
        size_bytes=copy.size_bytes,
        state=model.SnapshotState.COMPLETED,
        error=None,
        requested_rapid=archived.requested_rapid,
        rapid=False,
        retention=archived.retention if archived.requested_rapid else None,
        archive=_waiting(archived.captured, urgent=False),
        health=model.HealthState.OK,
        captured=archived.captured,
        created=archived.captured,
        updated=archived.captured,
        revision=0,
    )


# --- of layers that nothing names -------------------------------------------------------------------------------------


def _nameless(
    evidence: evidences.Evidence, shown: Mapping[str, str], heads: Mapping[str, str], named: set[str]
) -> Iterator[Found]:
    """Yield a snapshot of each layer that was frozen since the backup and whose snapshot nothing names."""
    for file in evidence.pool.layers.values():
        if (
            file.uid in heads
            or evidence.is_partial(file, heads)
            or not evidence.is_frozen(file)
            or shown.get(file.uid, "") in named
        ):
            continue
        if evidence.was_frozen(file.uid) or not evidence.is_believed(file):
            # What it shows has a snapshot in the backup, or had none any more.
            continue
        owner = _owner(evidence, file)
        if owner is not None:
            point = shown.get(file.uid) or naming.derived_uid("point", file.uid)
            snapshot = _recovered(evidence, file, owner, point)
            yield Found(snapshot, True, "a frozen layer that nothing names", layer=file.uid)


def _owner(evidence: evidences.Evidence, file: survey.LayerFile) -> descriptions.Owner | None:
    """Return whose layer it is: its own description's, or that of one that stands on it."""
    above = (evidence.pool.layers[uid] for uid in evidence.pool.children.get(file.uid, ()))
    heads: Iterable[descriptions.Head | None] = (each.described() for each in (file, *above))
    return next((head.owner for head in heads if head is not None), None)


def _recovered(
    evidence: evidences.Evidence, file: survey.LayerFile, owner: descriptions.Owner, point: str
) -> model.Snapshot:
    uid = naming.derived_uid("snapshot", file.uid)
    captured = min(file.modified, evidence.now)
    taken = descriptions.Taken(
        uid=uid,
        id=naming.recovered_id(uid),
        display_name="",
        labels={},
        rapid=True,
        retention=None,
        due=captured + evidence.default_retention,
        captured=captured,
    )
    return _taken(owner, taken, point, file.size_bytes)
