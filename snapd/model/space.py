"""What things take, and what is left."""

import dataclasses

from snapd.model.resources import Problem


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
