"""The tree of errors that the daemon raises, with typed fields and stable reasons.

    SnapdError
    ├── InvalidArgument      the request can never succeed as it stands
    ├── NotFound             what it names isn't there, or not for this caller
    ├── AlreadyExists        what it would make is there
    ├── FailedPrecondition   the state of something has to change first
    ├── ResourceExhausted    a limit, a quota or a store is full
    ├── Aborted              somebody else was faster; read again and retry
    ├── OutOfRange           past the end of something
    ├── Cancelled            the caller asked for the work to stop
    ├── Unavailable          for now; retry with back-off
    ├── DataLoss             stored bytes are not what was written
    └── StartupError         the daemon can't start; seen by operators only

Every concrete class has a `reason` (stable, UPPER_SNAKE, part of the API), a `summary` (a template over its fields) and
an `advice` (what the caller does about it). Nothing here knows of status codes: the RPC layer maps the branches above.

    tree       the root and the branches
    requests   what is wrong with a request
    states     what has to change first
    stores     limits and stores
    starting   what keeps the daemon from starting
    disasters  what is lost
    guests     volumes that guests use
"""

from snapd.errors.disasters import (
    CatalogMissing,
    CatalogOfAnotherHost,
    CatalogPresent,
    CatalogRebuilt,
    PoolMissing,
)
from snapd.errors.guests import (
    ExportsUnusable,
    SnapshotAttached,
    StorageDaemonBusy,
    StorageDaemonGone,
    StorageDaemonMissing,
    StorageDaemonRefused,
    VolumeAttached,
)
from snapd.errors.requests import (
    AlreadyExists,
    ChecksumMismatch,
    ImageRefused,
    InvalidField,
    InvalidFilter,
    InvalidPageToken,
    NotFound,
    OutOfRange,
    RequestIdReused,
    SnapshotOfAnotherVolume,
)
from snapd.errors.starting import (
    ConfigInvalid,
    SchemaTooNew,
    SchemaTooOld,
    SocketBusy,
    SocketPathUnusable,
    StateDirectoryBusy,
)
from snapd.errors.states import (
    ArchiveClaimed,
    ArchiveClaimLost,
    ArchiveKeyMissing,
    ArchiveNotEncrypted,
    CatalogBehind,
    DataBeyondEnd,
    EnvironmentNotEmpty,
    EtagMismatch,
    ImageBusy,
    OperationCancelled,
    SnapshotNotArchived,
    UploadIncomplete,
    UploadOffset,
    WrongState,
)
from snapd.errors.stores import (
    ArchiveRefused,
    ArchiveUnreachable,
    ChainDepth,
    Corrupt,
    Draining,
    PoolFull,
    SnapshotDamaged,
    StorageFailed,
    StorageFull,
    TooManyCalls,
)
from snapd.errors.tree import (
    Aborted,
    Cancelled,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    SnapdError,
    StartupError,
    Unavailable,
)

__all__ = [
    "Aborted",
    "AlreadyExists",
    "ArchiveClaimLost",
    "ArchiveClaimed",
    "ArchiveKeyMissing",
    "ArchiveNotEncrypted",
    "ArchiveRefused",
    "ArchiveUnreachable",
    "Cancelled",
    "CatalogBehind",
    "CatalogMissing",
    "CatalogOfAnotherHost",
    "CatalogPresent",
    "CatalogRebuilt",
    "ChainDepth",
    "ChecksumMismatch",
    "ConfigInvalid",
    "Corrupt",
    "DataBeyondEnd",
    "DataLoss",
    "Draining",
    "EnvironmentNotEmpty",
    "EtagMismatch",
    "ExportsUnusable",
    "FailedPrecondition",
    "ImageBusy",
    "ImageRefused",
    "InvalidArgument",
    "InvalidField",
    "InvalidFilter",
    "InvalidPageToken",
    "NotFound",
    "OperationCancelled",
    "OutOfRange",
    "PoolFull",
    "PoolMissing",
    "RequestIdReused",
    "ResourceExhausted",
    "SchemaTooNew",
    "SchemaTooOld",
    "SnapdError",
    "SnapshotAttached",
    "SnapshotDamaged",
    "SnapshotNotArchived",
    "SnapshotOfAnotherVolume",
    "SocketBusy",
    "SocketPathUnusable",
    "StartupError",
    "StateDirectoryBusy",
    "StorageDaemonBusy",
    "StorageDaemonGone",
    "StorageDaemonMissing",
    "StorageDaemonRefused",
    "StorageFailed",
    "StorageFull",
    "TooManyCalls",
    "Unavailable",
    "UploadIncomplete",
    "UploadOffset",
    "VolumeAttached",
    "WrongState",
]
