"""What callers see: environments, volumes, snapshots, and their states."""

import dataclasses
import datetime
import enum
from collections.abc import Mapping

from snapd import units

LARGEST_VOLUME = 64 * units.TIB
"""Bytes of the largest disk that can be made, or brought in."""

_RANGES_SHOWN = 16

Labels = Mapping[str, str]


class VolumeRole(enum.StrEnum):
    """What a volume is to its instance."""

    ROOT = "ROOT"
    DATA = "DATA"


class VolumeState(enum.StrEnum):
    """A volume's state; of several that hold, the first in this order is shown."""

    FAILED = "FAILED"
    DESTROYING = "DESTROYING"
    CREATING = "CREATING"
    REVERTING = "REVERTING"
    SNAPSHOT_IN_PROGRESS = "SNAPSHOT_IN_PROGRESS"
    READY = "READY"


class SnapshotState(enum.StrEnum):
    """A snapshot's state."""

    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    DESTROYING = "DESTROYING"
    FAILED = "FAILED"


class ArchiveState(enum.StrEnum):
    """Where a snapshot is on its way to the archive."""

    NONE = "NONE"
    SCHEDULED = "SCHEDULED"
    ARCHIVING = "ARCHIVING"
    VERIFYING = "VERIFYING"
    ARCHIVED = "ARCHIVED"
    FAILED = "FAILED"


class HealthState(enum.StrEnum):
    """Whether a snapshot's stored bytes can be read back."""

    OK = "OK"
    UNREACHABLE = "UNREACHABLE"
    DAMAGED = "DAMAGED"


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """Which part of a snapshot can't be read."""

    ranges: tuple[tuple[int, int], ...]
    """(offset, length) in bytes of the disk, ascending; the first ones, if there are very many."""
    total_bytes: int
    """In all ranges."""

    def __str__(self) -> str:
        shown = ", ".join(f"{offset}+{length}" for offset, length in self.ranges[:_RANGES_SHOWN])
        return f"{shown}, …" if len(self.ranges) > _RANGES_SHOWN else shown


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """An error as it is stored with a resource or an operation."""

    branch: str
    """The branch of the error tree, by its class's name ('ResourceExhausted')."""
    reason: str
    message: str
    metadata: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """The tenant boundary."""

    uid: str
    id: str
    display_name: str
    labels: Labels
    retention: datetime.timedelta | None
    """How long rapid snapshots stay on primary storage; None takes the daemon's default."""
    created: datetime.datetime
    updated: datetime.datetime
    revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class ArchivePlace:
    """Where an archived snapshot lies, whoever archived it."""

    host: str
    environment_uid: str
    snapshot_uid: str

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"hosts/{self.host}/environments/{self.environment_uid}/snapshots/{self.snapshot_uid}"

    @property
    def path(self) -> str:
        """Its parts with slashes between them."""
        return f"{self.host}/{self.environment_uid}/{self.snapshot_uid}"


@dataclasses.dataclass(frozen=True, slots=True)
class Volume:
    """A disk."""

    uid: str
    environment_uid: str
    environment: str
    """The environment's id."""
    id: str
    display_name: str
    labels: Labels
    role: VolumeRole
    instance: str
    size_bytes: int
    state: VolumeState
    error: Problem | None
    source_snapshot: str
    """Resource name of the snapshot, or of the archived snapshot, that it was created from, or ''."""
    head_layer: str | None
    """Uid of the layer that is written; None until the volume is created."""
    parent_point: str | None
    """Uid of the point on which the head stands."""
    created: datetime.datetime
    updated: datetime.datetime
    revision: int
    recovered: bool = False
    """A rebuild of the catalog brought it back and isn't sure of it, and no caller has updated it since."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveFigures:
    """What archiving took, in bytes of whole blocks. `changed` is the sum of `zero`, `deduplicated` and `new`."""

    changed: int = 0
    """What differs from the base; without one, all that is allocated."""
    read: int = 0
    """What was read of it: it isn't where it is known to be zeros."""
    zero: int = 0
    deduplicated: int = 0
    """What the environment held already, byte for byte."""
    new: int = 0
    """What was stored, before compression."""


@dataclasses.dataclass(frozen=True, slots=True)
class Archive:
    """The archive's side of a snapshot."""

    state: ArchiveState
    due: datetime.datetime | None
    """When it is, or was, to be archived."""
    next_attempt: datetime.datetime | None
    """When it is tried next, after failures."""
    archived: datetime.datetime | None
    attempts: int
    error: Problem | None
    stored_bytes: int
    """What the archive grew by for it."""
    figures: ArchiveFigures = ArchiveFigures()
    """What archiving it took; zeros until it is archived."""
    urgent: bool = False
    """A caller waits for it: a regular snapshot, or one that was asked to be archived now."""
    estimated_bytes: int = 0
    """What a run will have to read, about; it decides the order and nothing else."""
    checked: datetime.datetime | None = None
    """When the part of it that was checked longest ago was, if that is known."""
    paused: bool = False
    """It is due, and waits because the archiver is paused. This and what follows is filled in and never stored."""
    bytes_done: int = 0
    """Progress of the run under way."""
    bytes_total: int = 0
    bytes_per_second: int = 0
    estimated_end: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """A static copy of a volume's contents at one instant."""

    uid: str
    environment_uid: str
    environment: str
    id: str
    display_name: str
    labels: Labels
    volume: str
    """Id of the volume that it was taken of, which may be gone or may have been made anew."""
    volume_uid: str
    point: str
    """Uid of its point."""
    size_bytes: int
    state: SnapshotState
    error: Problem | None
    requested_rapid: bool
    rapid: bool
    """Kept on primary storage, until it is archived."""
    retention: datetime.timedelta | None
    """Its own retention, if it was given one."""
    archive: Archive
    health: HealthState
    """As it is stored it is never UNREACHABLE: that is filled in."""
    captured: datetime.datetime
    created: datetime.datetime
    updated: datetime.datetime
    revision: int
    damage: Damage | None = None
    """Of one that is DAMAGED."""
    recovered: bool = False
    """As Volume.recovered."""
