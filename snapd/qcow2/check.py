"""The verdict on one image: sound, leaking or corrupt. Changes nothing."""

import dataclasses
import pathlib

from snapd import fsops, units
from snapd.qcow2 import survey
from snapd.qcow2.image import Image


@dataclasses.dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found, counted as `qemu-img check` does."""

    leaks: int
    """Clusters whose refcount is higher than what refers to them: lost space, nothing worse."""
    corruptions: int
    """Refcounts that are too low, flags that contradict them, and impossible entries."""
    allocated_clusters: int
    """Guest clusters that have a place in the file."""
    total_clusters: int
    """Guest clusters of the disk."""
    image_end_bytes: int
    """End of the last cluster that is counted as used."""

    @property
    def clean(self) -> bool:
        """Say whether there is nothing to find fault with."""
        return not (self.leaks or self.corruptions)


def check(path: pathlib.Path) -> CheckReport:
    """Return the verdict on the image at path.

    Raises errors.ImageRefused for what `Image.open` refuses and for features that aren't checked (internal snapshots,
    bitmaps, refcounts that aren't 16 bits wide), errors.Corrupt if the file ends within a table.
    """
    with Image.open(path) as opened, fsops.translated(path):
        found = survey.survey(opened)
        references = found.plain + found.packed
        return CheckReport(
            leaks=int((found.refcounts > references).sum()),
            corruptions=found.impossible + int((found.refcounts < references).sum()),
            allocated_clusters=found.allocated,
            total_clusters=units.divide_up(opened.size_bytes, opened.cluster_size),
            image_end_bytes=survey.end_of_use(found.refcounts) * opened.cluster_size,
        )
