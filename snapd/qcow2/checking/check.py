"""The verdict on one image: sound, leaking or corrupt. Changes nothing.

Sees all that `qemu-img check` sees and counts it in the same way. Stricter in this, which reading refuses too: L2
tables that the file's end cuts short, own entries with the COPIED flag and no host cluster, the zero flag where the
format has none, and metadata that something else lies on although the refcounts allow for it.
"""

import dataclasses
import pathlib

import numpy as np

from snapd import errors, fsops, units
from snapd.qcow2.checking import entries, references, survey
from snapd.qcow2.format import header, layout
from snapd.qcow2.reading.image import Image

_COMPRESSED_MAX = 1 << 22
"""Compressed clusters whose places are compared in one go: 32 MiB of them."""


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


def require_sound(opened: Image) -> None:
    """Require that an open image can be read and folded without surprise, whoever made it; leaks are no matter.

    Raises errors.Corrupt, naming what is wrong: impossible entries, clusters in use without a refcount or with a wrong
    one, metadata that something else lies on, host clusters that two guest clusters share, compressed ones too. The
    refcounts of an image that is marked dirty are not looked at. Raises errors.ImageRefused as `check` does.
    """
    # Some things have every reading refused though a check sees past them, as an impossible snapshot.
    opened.l1_and_metadata()
    with fsops.translated(opened.path):
        # A snapshot's view has the snapshot's L1 table for its own, with which no flag would be right.
        whole = header.read(opened.fileno(), opened.file_size)
        _require_sound(opened, whole, survey.survey(opened.fileno(), whole, opened.file_size))
        if opened.header != whole:
            found = survey.survey(opened.fileno(), opened.header, opened.file_size)
            _require(opened, found.verdict.shared, "clusters of the snapshot that two of its entries share")
            _require_distinct(opened, found.counts.compressed)


def _require_sound(opened: Image, whole: header.Header, found: survey.Survey) -> None:
    counts, verdict = found.counts, found.verdict
    _require(opened, counts.corruptions, "impossible entries in its tables")
    _require(opened, verdict.overlaps, "clusters of metadata that something else lies on")
    _require(opened, verdict.shared, "clusters that two entries of one table share")
    if not whole.incompatible & layout.INCOMPATIBLE_DIRTY:
        _require(opened, verdict.free, "clusters in use that have no refcount")
        _require(opened, verdict.flags, "COPIED flags that the refcounts contradict")
        _require(opened, verdict.corruptions, "refcounts that are too low or can't be found")
    _require(opened, verdict.check_errors, "refcounts and lists that can't be read")
    _require_distinct(opened, counts.compressed)


def _require(opened: Image, count: int, what: str) -> None:
    if count:
        raise errors.Corrupt(what=opened.path.name, problem=f"it has {what}, {count} in all")


def _require_distinct(opened: Image, compressed_clusters: int) -> None:
    """Require that no compressed cluster is many guest clusters: a small file would expand without end."""
    if compressed_clusters == 0:
        return
    found = references.References(opened.fileno(), opened.header, opened.file_size, None)
    turns = units.divide_up(compressed_clusters, _COMPRESSED_MAX)
    for turn in range(turns):
        places = []
        for group in found.pieces():
            if group.active:
                offsets = entries.compressed_offsets(found.read(group), opened.header)
                places.append(offsets[offsets % turns == turn])
        offsets = np.sort(np.concatenate(places))
        _require(opened, int((np.diff(offsets) == 0).sum()), "compressed clusters that two entries share")
