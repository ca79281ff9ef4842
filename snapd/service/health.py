"""The health of archived snapshots: noted in the catalog when damage is found, taken back when none is left.

It looks for nothing itself, but asks the archive what is known to be damaged. That a store is away is never noted: that
is filled in when a snapshot is shown.
"""

import dataclasses
import datetime
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from snapd import errors, model
from snapd.archive import scrub as scrubs
from snapd.catalog import snapshots
from snapd.service import core as cores

_MOST_RANGES: Final = 1_000
"""Kept and shown of one snapshot."""

_log = logging.getLogger(__name__)


def shown(core: cores.Core, snapshot: model.Snapshot) -> model.Snapshot:
    """Return a snapshot with whether the archive that has it can be reached, as far as is known. Asks nobody."""
    archived = snapshot.archive.state is model.ArchiveState.ARCHIVED
    if not archived or snapshot.health is not model.HealthState.OK or core.repository.unreachable is None:
        return snapshot
    return dataclasses.replace(snapshot, health=model.HealthState.UNREACHABLE)


def clipped(ranges: tuple[tuple[int, int], ...], size_bytes: int) -> model.Damage:
    """Return ranges as they are kept of a disk of that size."""
    inside = [(offset, min(length, size_bytes - offset)) for offset, length in ranges if offset < size_bytes]
    return model.Damage(tuple(inside[:_MOST_RANGES]), sum(length for _, length in inside))


def note(core: cores.Core, environment_uid: str) -> list[str]:
    """Note with an environment's snapshots when they were checked and what is damaged; return the damaged ones' uids.

    Raises errors.ArchiveUnreachable, errors.ArchiveKeyMissing, errors.ArchiveClaimed, errors.ArchiveClaimLost.
    """
    upkeep = core.repository.upkeep
    # What somebody else may have removed is no damage.
    core.repository.require_usable()
    # First: what is archived from now on is in what is read after this, or nothing is said of it.
    candidates = snapshots.archived(core.catalog.reader(), environment_uid)
    checks = upkeep.oldest_checks(environment_uid)
    damages = {damage.snapshot_uid: damage.ranges for damage in upkeep.damage(environment_uid)}
    hit: list[str] = []
    for candidate in candidates:
        gone = candidate.uid not in checks and candidate.uid not in damages
        ranges = scrubs.ALL if gone else damages.get(candidate.uid, ())
        damage = clipped(ranges, candidate.size_bytes) if ranges else None
        if _note_one(core, candidate.uid, damage, checks.get(candidate.uid)) and damage is not None:
            hit.append(candidate.uid)
    return hit


def _note_one(
    core: cores.Core, uid: str, damage: model.Damage | None, checked: datetime.datetime | None
) -> model.Snapshot | None:
    """Note what was found of one snapshot, and return it unless it is gone or going."""
    health = model.HealthState.OK if damage is None else model.HealthState.DAMAGED
    with core.catalog.transaction() as tx:
        snapshot = snapshots.by_uid(tx.connection, uid)
        if snapshot is None or snapshot.archive.state is not model.ArchiveState.ARCHIVED:
            return None
        if snapshot.state is model.SnapshotState.DESTROYING:
            return None
        if (snapshot.health, snapshot.damage) == (health, damage):
            # No change of the snapshot: nobody who watches is told, and its etag stays.
            snapshots.note_check(tx, uid, checked)
            return snapshot
        archive = dataclasses.replace(snapshot.archive, checked=checked)
        snapshots.put(
            tx, dataclasses.replace(snapshot, health=health, damage=damage, archive=archive, updated=core.now())
        )
    if damage is None:
        _log.info("an archived snapshot is whole again", extra={"snapshot": uid})
    else:
        _log.error("an archived snapshot is damaged", extra={"snapshot": uid, "ranges": str(damage)})
    return snapshot


@contextmanager
def telling(core: cores.Core, name: str, place: model.ArchivePlace, size_bytes: int) -> Iterator[None]:
    """Have damage that is met in reading an archived snapshot, of that size, tell its ranges, and the scrubber know.

    Raises errors.SnapshotDamaged for errors.Corrupt, if any part of what the archive has is damaged.
    """
    try:
        yield
    except errors.Corrupt as error:
        raise _told(core, name, place, size_bytes, error) from error


def _told(
    core: cores.Core, name: str, place: model.ArchivePlace, size_bytes: int, error: errors.Corrupt
) -> errors.Corrupt | errors.SnapshotDamaged:
    if place.host == core.settings.host:
        core.suspects.add(place.environment_uid)
    try:
        found = core.repository.upkeep.damage_of(place.environment_uid, place.snapshot_uid, place.host)
    except errors.SnapdError:
        # The extent can't be told now; that there is damage can.
        return error
    damage = clipped(found.ranges, size_bytes)
    if not damage.ranges:
        return error
    return errors.SnapshotDamaged(name=name, damaged_bytes=damage.total_bytes, ranges=str(damage))
