"""What a rebuild did and could not do: counts, and every single thing that is recovered, lost or left alone."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One thing, and what there is to say of it."""

    name: str
    """A resource name, or a path within the pool or the archive."""
    problem: str


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """Rows of the new catalog."""

    environments: int = 0
    volumes: int = 0
    snapshots: int = 0
    points: int = 0
    layers: int = 0
    described: int = 0
    """Layers whose headers say whose they are."""
    archived: int = 0
    """Snapshots that are in the archive."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What there is to tell."""

    counts: Counts
    recovered: tuple[Entry, ...]
    """Volumes and snapshots of which something is uncertain: they are marked."""
    lost: tuple[Entry, ...]
    """Volumes and snapshots that are FAILED, since their contents weren't found."""
    left: tuple[Entry, ...]
    """Files and archived snapshots that are in no row, and stay as they are."""

    @property
    def is_sure(self) -> bool:
        """Whether nothing is lost and nothing uncertain."""
        return not self.recovered and not self.lost
