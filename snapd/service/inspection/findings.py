"""What an inspection can find. A finding is no error: it is told, and nothing is changed by it."""

import dataclasses
import enum


class Kind(enum.StrEnum):
    """What was found."""

    CATALOG_DAMAGED = "CATALOG_DAMAGED"
    """SQLite finds the catalog's file damaged."""
    CATALOG_INCONSISTENT = "CATALOG_INCONSISTENT"
    """Rows of the catalog contradict one another."""
    LAYER_MISSING = "LAYER_MISSING"
    """The catalog has a layer whose file is gone: what stands on it can't be read."""
    LAYER_DIFFERS = "LAYER_DIFFERS"
    """A layer's file isn't what the catalog says, by its header: it isn't read."""
    IMAGE_DAMAGED = "IMAGE_DAMAGED"
    """A layer's tables or refcounts are damaged."""
    COPY_MISSING = "COPY_MISSING"
    """A snapshot that the catalog says is archived has no manifest in the archive."""
    IMAGE_LEAKS = "IMAGE_LEAKS"
    """A layer's file has clusters that nothing uses: lost space."""
    LAYER_WRITABLE = "LAYER_WRITABLE"
    """A frozen layer's file has the permission to be written."""
    FILE_UNEXPLAINED = "FILE_UNEXPLAINED"
    """A file lies in the pool that no row explains. It is left alone, always."""
    COPY_UNEXPLAINED = "COPY_UNEXPLAINED"
    """The archive has a snapshot of this host that the catalog doesn't know. It is left alone, always."""

    @property
    def is_loss(self) -> bool:
        """Whether something can't be read, or may not be what it should."""
        return self not in _HARMLESS


_HARMLESS = frozenset({Kind.IMAGE_LEAKS, Kind.LAYER_WRITABLE, Kind.FILE_UNEXPLAINED, Kind.COPY_UNEXPLAINED})


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    kind: Kind
    subject: str
    """What it is about: a layer's uid, a path within the pool, a snapshot's resource name or uid, or the catalog."""
    problem: str
    """A sentence for people."""
    affected: tuple[str, ...] = ()
    """Resource names of the volumes and snapshots that it hits, sorted."""
