"""Repair of what is wrong with an image's refcounts and COPIED flags, and of nothing else: no data is guessed at.

What a kill leaves behind are leaks: refcounts that are lowered where they are. For all else the refcounts are built
anew from what refers to the clusters, in this order: flags that must go, then the new refcounts at once, then flags
that must come. A kill between any two writes leaves an image that can be written as safely as before.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from snapd import errors, fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2.checking import blocks, flags, rebuild, references, survey, tally
from snapd.qcow2.format import counters, layout, locks
from snapd.qcow2.format import header as headers
from snapd.qcow2.reading.image import Image

_INCOMPATIBLE_AT = 72
_WORSE = "it has worse than leaks, so that references may be missing"


@dataclasses.dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did, in the terms of `check.CheckReport`."""

    leaks_fixed: int
    corruptions_fixed: int


def repair(path: pathlib.Path, *, leaks_only: bool) -> RepairReport:
    """Repair the refcounts and COPIED flags of the image at path, durably, and take the marks dirty and corrupt away.

    Entries that are impossible stay as they are, and stay reported; what they may have referred to keeps its refcount,
    and the marks stay too. Raises errors.Corrupt, and changes nothing, if leaks_only and the image has worse than
    leaks; if both entries and refcount blocks are beyond trust, an L2 table lies on other metadata, or something refers
    to where new refcounts would go; and if there are more references than the image's refcounts can hold. Raises
    errors.ImageBusy, and what `check.check` raises.
    """
    with _opened_alone(path) as (fd, opened), fsops.translated(path):
        leaks = _Leaks()
        before = survey.survey(fd, opened.header, opened.file_size, leaks.take)
        after = before
        worse = before.corruptions or before.verdict.check_errors
        if worse and leaks_only:
            raise errors.Corrupt(what=path.name, problem=_WORSE)
        if worse or leaks.count < before.verdict.leaks:
            _mend(fd, opened, before)
            file_size = os.fstat(fd).st_size
            after = survey.survey(fd, headers.read(fd, file_size), file_size)
        elif leaks.lower(fd, blocks.Blocks(fd, opened.header, opened.file_size)):
            after = survey.survey(fd, opened.header, opened.file_size)
        if not after.corruptions and not after.verdict.check_errors:
            _clear_marks(fd, opened.header)
        return RepairReport(
            max(before.verdict.leaks - after.verdict.leaks, 0), max(before.corruptions - after.corruptions, 0)
        )


def _mend(fd: int, opened: Image, found: survey.Survey) -> None:
    """Have refcounts and flags say what the references do."""
    there = blocks.Blocks(fd, opened.header, opened.file_size)
    # An entry that is misaligned may refer to one cluster behind the last.
    behind = units.divide_up(opened.file_size, opened.cluster_size) + 1
    _require_mendable(found, there, rebuild.room(opened.header, behind), opened.path.name)
    sources = references.References(fd, opened.header, opened.file_size, None)
    structure = rebuild.Structure(fd, opened.header, behind, opened.path.name)
    once = flags.Once()
    overlapped = []
    for page in sources.pages():
        wanted = page.array(page.total)
        if found.incomplete:
            wanted = np.maximum(wanted, tally.refcounts_of(page, there))
        structure.take(page, wanted)
        once.take(page, wanted)
        overlapped.append(sources.metadata.overlapped(page))

    def correct(*, setting: bool) -> None:
        own = (group.offset for group in sources.pieces() if group.active)
        flags.correct(fd, opened.header, own, once, np.concatenate(overlapped), setting=setting)
        fsops.fdatasync(fd)

    correct(setting=False)
    structure.finish()
    correct(setting=True)


def _require_mendable(found: survey.Survey, there: blocks.Blocks, end: int, name: str) -> None:
    """Raise errors.Corrupt for damage that new refcounts, behind everything and up to a cluster, would make worse."""
    problem = None
    if found.incomplete and there.corruptions:
        problem = "both what refers to its clusters and its refcounts are damaged"
    elif found.astray:
        problem = "an L2 table lies on other metadata, so that it isn't known what is in use"
    elif found.counts.nearest < end:
        # What was impossible would begin to refer to something as the file grows.
        problem = "something refers to what lies behind the file's end, where the new refcounts would come to lie"
    if problem:
        raise errors.Corrupt(what=name, problem=problem)


def _clear_marks(fd: int, header: headers.Header) -> None:
    """Take the marks away that say that refcounts are stale or that something is corrupt."""
    marks = layout.INCOMPATIBLE_DIRTY | layout.INCOMPATIBLE_CORRUPT
    if header.incompatible & marks:
        fsops.pwrite(fd, (header.incompatible & ~marks).to_bytes(8), _INCOMPATIBLE_AT)
        fsops.fdatasync(fd)


def repair_leaks(path: pathlib.Path) -> int:
    """Lower the refcounts that are too high of clusters that no standard entry refers to; return how many, durably.

    So are refcounts of clusters past the end of the file, which a power cut leaves: no check sees them before the file
    grows over them. Where an entry does refer, its COPIED flag would have to change too, so that such a cluster keeps
    its refcount. Raises errors.Corrupt if the image has worse than leaks, and what `check.check` raises.
    """
    with _opened_alone(path) as (fd, opened), fsops.translated(path):
        leaks = _Leaks()
        found = survey.survey(fd, opened.header, opened.file_size, leaks.take)
        if found.corruptions or found.verdict.check_errors:
            raise errors.Corrupt(what=path.name, problem=_WORSE)
        return leaks.lower(fd, blocks.Blocks(fd, opened.header, opened.file_size))


@contextmanager
def _opened_alone(path: pathlib.Path) -> Iterator[tuple[int, Image]]:
    """Open an image for changing it with everybody else kept out, as it is on the disk.

    Whoever left it as it is may have died before a sync, or been told by one that pages are lost. What is found in
    order here is relied on afterwards, so it has to be durable.
    """
    with fsops.translated(path):
        fd = fsops.open_for_writing(path)
    try:
        with fsops.translated(path):
            locks.exclusive(fd, path.name)
            fsops.drop_cache(fd)
        with Image.open(path, locked=False) as opened:
            yield fd, opened
    finally:
        locks.close(fd)


class _Leaks:
    """Clusters whose refcounts are to be lowered."""

    def __init__(self) -> None:
        self.count = 0
        """Those within the file."""
        self._end = 0
        self._clusters: list[Int64Array] = []
        self._wanted: list[Int64Array] = []

    def take(self, page: tally.Page, refcounts: tally.Numbers | None) -> None:
        """Take those of a page, the next one."""
        self._end = page.first + page.clusters
        if refcounts is None:
            return
        total = page.array(page.total)
        leaked = refcounts > total
        if leaked.any():
            plain = page.array(page.kinds[tally.COPIED] + page.kinds[tally.UNCOPIED])
            places = np.flatnonzero(leaked & (plain == 0))
            if len(places):
                self._clusters.append(page.first + places)
                self._wanted.append(total[places].astype(np.int64))
                self.count += len(places)

    def lower(self, fd: int, there: blocks.Blocks) -> int:
        """Write the refcounts, a block at a time, durably; return how many clusters there were."""
        self._take_beyond(there)
        if not self._clusters:
            return 0
        clusters, wanted = np.concatenate(self._clusters), np.concatenate(self._wanted)
        numbers = clusters // there.per_block
        for number in np.unique(numbers).tolist():
            raw = there.raw(number, number + 1)
            if raw is None:
                continue
            here = numbers == number
            values = counters.unpack(raw, there.order)
            values[clusters[here] - number * there.per_block] = wanted[here]
            fsops.pwrite(fd, counters.pack(values, there.order), there.place(number))
        fsops.fdatasync(fd)
        return len(clusters)

    def _take_beyond(self, there: blocks.Blocks) -> None:
        """Take what has a refcount past the end of the file."""
        for number in there.held(self._end // there.per_block).tolist():
            raw = there.raw(number, number + 1)
            if raw is not None:
                clusters = number * there.per_block + np.flatnonzero(counters.unpack(raw, there.order))
                clusters = clusters[clusters >= self._end]
                if len(clusters):
                    self._clusters.append(clusters)
                    self._wanted.append(np.zeros_like(clusters))
