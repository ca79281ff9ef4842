"""The domain in frozen dataclasses: what the catalog stores, the service layer returns and the RPC layer converts.

Times are aware datetimes in UTC, sizes are bytes, uids are UUID4 strings, ids are what callers chose. Nothing here has
behaviour beyond what follows from its own fields.

    resources    environments, volumes, snapshots
    storage      layers, points, images
    work         operations, intents, the background work
    attachments  what is lent to guests, and who serves it
    requests     what a caller asks
    space        what things take
"""

from snapd.model.attachments import (
    UNLIMITED,
    Attachment,
    AttachmentState,
    AttachmentWay,
    Launcher,
    Limits,
    StorageDaemon,
)
from snapd.model.requests import (
    Page,
    Query,
    Request,
)
from snapd.model.resources import (
    LARGEST_VOLUME,
    Archive,
    ArchiveFigures,
    ArchivePlace,
    ArchiveState,
    Damage,
    Environment,
    HealthState,
    Labels,
    Problem,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeRole,
    VolumeState,
)
from snapd.model.space import (
    ArchiveCapacity,
    Capacity,
    Space,
)
from snapd.model.storage import (
    ImageFormat,
    Layer,
    LayerState,
    Point,
)
from snapd.model.work import (
    Intent,
    Operation,
    Pause,
    Worker,
)

__all__ = [
    "LARGEST_VOLUME",
    "UNLIMITED",
    "Archive",
    "ArchiveCapacity",
    "ArchiveFigures",
    "ArchivePlace",
    "ArchiveState",
    "Attachment",
    "AttachmentState",
    "AttachmentWay",
    "Capacity",
    "Damage",
    "Environment",
    "HealthState",
    "ImageFormat",
    "Intent",
    "Labels",
    "Launcher",
    "Layer",
    "LayerState",
    "Limits",
    "Operation",
    "Page",
    "Pause",
    "Point",
    "Problem",
    "Query",
    "Request",
    "Snapshot",
    "SnapshotState",
    "Space",
    "StorageDaemon",
    "Volume",
    "VolumeRole",
    "VolumeState",
    "Worker",
]
