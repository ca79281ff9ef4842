"""Limits that are reached, and stores that are full, away or damaged."""

import dataclasses

from snapd.errors.tree import DataLoss, ResourceExhausted, Unavailable


@dataclasses.dataclass(eq=False, kw_only=True)
class PoolFull(ResourceExhausted):
    """Primary storage has no room for it above the configured reserve."""

    reason = "POOL_FULL"
    summary = "primary storage has {free_bytes} bytes free, at or below its low watermark of {watermark_bytes}"
    advice = "Delete volumes or rapid snapshots, archive rapid snapshots now, or add storage."
    free_bytes: int
    watermark_bytes: int


@dataclasses.dataclass(eq=False, kw_only=True)
class StorageFull(ResourceExhausted):
    """A file system answered that no space is left."""

    reason = "STORAGE_FULL"
    summary = "no space is left for {path}"
    advice = "Free space on that file system; nothing was changed."
    path: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ChainDepth(ResourceExhausted):
    """The volume has as many layers below it as are allowed."""

    reason = "CHAIN_DEPTH"
    summary = "{volume} stands on {depth} layers, the most that are allowed"
    advice = "Archive or delete some of its rapid snapshots, so that layers can be merged."
    volume: str
    depth: int


@dataclasses.dataclass(eq=False, kw_only=True)
class TooManyCalls(ResourceExhausted):
    """The caller has as many calls of this kind under way as one identity may."""

    reason = "TOO_MANY_CALLS"
    summary = "{limit} {kind} calls are under way, the most that one identity may have"
    advice = "Retry with back-off."
    kind: str
    limit: int


@dataclasses.dataclass(eq=False, kw_only=True)
class Draining(Unavailable):
    """The daemon is stopping."""

    reason = "DRAINING"
    summary = "the daemon is stopping"
    advice = "Retry with back-off; accepted work goes on after the restart."


@dataclasses.dataclass(eq=False, kw_only=True)
class ArchiveUnreachable(Unavailable):
    """The archive can't be read or written for now."""

    reason = "ARCHIVE_UNREACHABLE"
    summary = "the archive can't be reached: {problem}"
    advice = "Bring the store back; the work is retried with back-off."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ArchiveRefused(Unavailable):
    """The archive's store answers, and refuses what the daemon has to do there."""

    reason = "ARCHIVE_REFUSED"
    summary = "the archive's store refuses: {problem}"
    advice = "Check credentials, bucket, region and permissions; the work is retried with back-off."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class StorageFailed(Unavailable):
    """A file system call failed for a reason other than a lack of space."""

    reason = "STORAGE_FAILED"
    summary = "{path}: {problem}"
    advice = "Look at the host's log for the device; nothing acknowledged was lost."
    path: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class Corrupt(DataLoss):
    """A stored object is not what was written. Wrong bytes are never returned."""

    reason = "CORRUPT"
    summary = "{what} is damaged: {problem}"
    advice = "Restore from another snapshot; run a check to learn the extent of the damage."
    what: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SnapshotDamaged(DataLoss):
    """Part of what the archive has of a snapshot can't be read."""

    reason = "SNAPSHOT_DAMAGED"
    summary = "{name} is damaged: {damaged_bytes} bytes of it can't be read, at {ranges}"
    advice = (
        "Use another snapshot; what is whole of this one is saved by snapd-storage archive restore --salvage. "
        "The ranges are offset+length in bytes."
    )
    name: str
    damaged_bytes: int
    ranges: str
