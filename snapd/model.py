"""The domain in frozen dataclasses: what the catalog stores, the service layer returns and the RPC layer converts.

Times are aware datetimes in UTC, sizes are bytes, uids are UUID4 strings, ids are what callers chose. Nothing here has
behaviour beyond what follows from its own fields.
"""

import dataclasses
import datetime
import enum
from collections.abc import Mapping
from typing import Generic, TypeVar

from snapd import units

LARGEST_VOLUME = 64 * units.TIB
"""Bytes of the largest disk that can be made, or brought in."""

_RANGES_SHOWN = 16

T = TypeVar("T")

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


class LayerState(enum.StrEnum):
    """The life of a layer's file; the row is there before the file and after it."""

    CREATING = "CREATING"
    """An open intent makes the file; it may be missing or half-written."""
    HEAD = "HEAD"
    """A volume writes it."""
    FROZEN = "FROZEN"
    """Its guest-visible contents never change again."""
    FOLDING = "FOLDING"
    """A fold merges it into its neighbour; nobody else may use it any more."""
    DOOMED = "DOOMED"
    """Nothing needs it: the file is to be removed, then the row."""


class ImageFormat(enum.StrEnum):
    """The format of an image that goes in or out. It is always stated, never guessed."""

    RAW = "RAW"
    QCOW2 = "QCOW2"


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


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """An immutable moment of a volume's contents. Points are history, layers are files."""

    uid: str
    environment_uid: str
    parent: str | None
    layer: str | None
    """The frozen layer that shows its contents, while there is one on primary storage."""
    size_bytes: int
    delta_recorded: bool
    """The delta to the parent is in the catalog; until then it is the allocation of the layer's file."""
    created: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One qcow2 file of the pool."""

    uid: str
    parent: str | None
    size_bytes: int
    state: LayerState
    created: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Intent:
    """A multi-step change that was begun: what recovery needs to finish or undo it."""

    number: int
    kind: str
    subject: str
    """Uid of the resource that is changed."""
    operation: str
    """Uid of the operation that tells its caller of it, or ''."""
    payload: Mapping[str, str]
    created: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """What a caller can watch of accepted work."""

    uid: str
    environment_uid: str
    environment: str
    id: str
    method: str
    """The RPC that began it, as 'CreateVolume'."""
    target: str
    """Resource name of what it works on."""
    target_uid: str
    done: bool
    error: Problem | None
    created: datetime.datetime
    ended: datetime.datetime | None
    result: Mapping[str, int | bool | list[str]] | None = None
    """What it answers besides its target, by the names of the API's fields."""
    stage: str = ""
    """Progress of running work, filled in from memory and never stored."""
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_second: int = 0
    estimated_end: datetime.datetime | None = None
    attempt: int = 1


class AttachmentState(enum.StrEnum):
    """Who has the files of an attached volume."""

    ATTACHING = "ATTACHING"
    """An open intent brings its export up."""
    ATTACHED = "ATTACHED"
    """A guest may be writing: only the storage daemon knows what the head holds."""
    STALLED = "STALLED"
    """As ATTACHED, but its storage daemon doesn't answer. It is filled in and never stored."""
    DETACHING = "DETACHING"
    """An open intent takes its export down."""
    CRASHED = "CRASHED"
    """Its storage daemon is gone: nobody has its files."""


class AttachmentWay(enum.StrEnum):
    """How an instance comes to its disk."""

    NBD = "NBD"
    VHOST_USER_BLK = "VHOST_USER_BLK"
    """Rings in memory that the hypervisor shares with the storage daemon."""


class Launcher(enum.StrEnum):
    """Who starts storage daemons, and finds them again."""

    DIRECT = "DIRECT"
    SYSTEMD = "SYSTEMD"


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a guest may do in a second; 0 stands for all that it can."""

    iops: int = 0
    bytes_per_second: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class StorageDaemon:
    """A process that serves a group of disks, or the place that it had."""

    uid: str
    instance: str
    """Whose volumes it serves, or '' if it serves the only disk of nobody."""
    environment_uid: str
    launcher: Launcher
    generation: int
    """How often it was started."""
    boot: str
    """Boot id of the kernel that ran it; '' until it was started."""
    pid: int | None
    start_ticks: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Attachment:
    """A disk that is lent to an instance."""

    uid: str
    volume_uid: str | None
    """None: it is a snapshot's."""
    snapshot_uid: str | None
    storage_daemon: str
    """Uid of the one that serves it, or did."""
    way: AttachmentWay
    state: AttachmentState
    read_only: bool
    writethrough: bool
    """No write is answered before it is durable, so the death of the storage daemon loses none."""
    limits: Limits
    top: str | None
    """Uid of a snapshot's layer; None: it is a volume's, which has its head."""
    created: datetime.datetime

    @property
    def disk(self) -> str:
        """Uid of the volume or of the snapshot."""
        uid = self.volume_uid or self.snapshot_uid
        assert uid is not None
        return uid


class Worker(enum.StrEnum):
    """A part of the background work that can be paused."""

    ARCHIVER = "ARCHIVER"
    """Carries snapshots to the archive."""
    KEEPER = "KEEPER"
    """Merges layers and collects archive garbage."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """Somebody's wish that background work be held."""

    reason: str
    paused_by: str
    """The identity that asked for it."""
    since: datetime.datetime
    until: datetime.datetime | None
    """When it ends by itself; None: when somebody ends it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """Who asks for a mutation, and how to know the same request when it comes again."""

    identity: str
    method: str
    parent: str
    """The environment's id, or '' for environments themselves."""
    request_id: str
    """A UUID that the caller chose, or '' if the caller gave none."""
    digest: bytes
    """Hash of the whole request but its id."""


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """Parameters of a listing."""

    environment: str
    """The environment's id; '-' for all that the caller may see; '' for environments themselves."""
    identity: str
    page_size: int
    page_token: str
    filter: str
    order_by: str


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing."""

    items: tuple[T, ...]
    next_page_token: str


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveCapacity:
    """Space in the archive, in bytes."""

    free: int | None
    """None if the store has no such figure."""
    used: int


@dataclasses.dataclass(frozen=True, slots=True)
class Capacity:
    """Space as it is, in bytes."""

    pool_total: int
    pool_free: int
    pool_used: int
    """What the layers take."""
    pool_watermark: int
    """Below this much free, captures, creations and imports are refused."""
    archive: ArchiveCapacity | None
    """None while the archive can't be used."""
    archive_error: Problem | None = None
    """Why it can't."""


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """What a volume, a snapshot or an environment takes, in bytes."""

    exclusive: int
    """Freed when it is deleted."""
    shared: int
    """In layers that something else depends on too."""
