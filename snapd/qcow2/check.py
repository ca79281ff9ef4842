"""The verdict on one image: sound, leaking or corrupt. Changes nothing.

Sees all that `qemu-img check` sees and counts it in the same way. Stricter in this, which reading refuses too: own
entries with the COPIED flag and no host cluster, the zero flag where the format has none, and metadata that something
else lies on although the refcounts allow for it.
"""

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
    check_errors: int
    """Places at which no verdict is possible: refcounts and lists that can't be read."""
    allocated_clusters: int
    """Guest clusters that have a place in the file."""
    compressed_clusters: int
    """Those of them that are compressed."""
    fragmented_clusters: int
    """Those of them that don't follow the one before, and all that are compressed."""
    total_clusters: int
    """Guest clusters of the disk."""
    image_end_bytes: int
    """End of the last cluster that is counted as used."""

    @property
    def clean(self) -> bool:
        """Say whether there is nothing to find fault with."""
        return not (self.leaks or self.corruptions or self.check_errors)


def check(path: pathlib.Path, *, locked: bool = True) -> CheckReport:
    """Return the verdict on the image at path; `locked` is that of `Image.open`.

    Raises errors.ImageRefused for what `Image.open` refuses and for what would take unbounded work.
    """
    with Image.open(path, locked=locked) as opened, fsops.translated(path):
        return report(opened, survey.survey(opened.fileno(), opened.header, opened.file_size))


def report(opened: Image, found: survey.Survey) -> CheckReport:
    """Return the verdict that a survey of an open image amounts to."""
    counts, verdict = found.counts, found.verdict
    return CheckReport(
        leaks=verdict.leaks,
        corruptions=found.corruptions,
        check_errors=verdict.check_errors,
        allocated_clusters=counts.allocated,
        compressed_clusters=counts.compressed,
        fragmented_clusters=counts.fragmented,
        total_clusters=units.divide_up(opened.size_bytes, opened.cluster_size),
        image_end_bytes=(verdict.highest + 1) * opened.cluster_size,
    )
