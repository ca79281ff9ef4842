"""Repair of what is wrong with an image's refcounts, and of nothing else: nobody's data is guessed at.

What a kill leaves behind are leaks: refcounts that are lowered where they are.
"""

import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from snapd import errors, fsops
from snapd.blockmap import Int64Array
from snapd.qcow2 import blocks, counters, locks, survey, tally
from snapd.qcow2.image import Image


def repair_leaks(path: pathlib.Path) -> int:
    """Lower the refcounts that are too high of clusters that no standard entry refers to; return how many, durably.

    Where one does refer, its COPIED flag would have to change too, so that such a cluster keeps its refcount. Raises
    errors.Corrupt if the image has worse than leaks, and what `check.check` raises.
    """
    with _opened_alone(path) as (fd, opened), fsops.translated(path):
        leaks = _Leaks()
        found = survey.survey(opened, leaks.take)
        if found.counts.corruptions or found.verdict.corruptions or found.verdict.check_errors:
            raise errors.Corrupt(what=path.name, problem="it has worse than leaks, so that references may be missing")
        if leaks.count:
            leaks.lower(fd, blocks.Blocks(fd, opened.header, opened.file_size))
            fsops.fdatasync(fd)
        return leaks.count


@contextmanager
def _opened_alone(path: pathlib.Path) -> Iterator[tuple[int, Image]]:
    """Open an image for changing it with everybody else kept out."""
    with fsops.translated(path):
        fd = fsops.open_for_writing(path)
    try:
        with fsops.translated(path):
            locks.exclusive(fd, path.name)
        with Image.open(path, locked=False) as opened:
            yield fd, opened
    finally:
        os.close(fd)


class _Leaks:
    """Clusters whose refcounts are to be lowered."""

    def __init__(self) -> None:
        self.count = 0
        self._clusters: list[Int64Array] = []
        self._wanted: list[Int64Array] = []

    def take(self, page: tally.Page, refcounts: tally.Numbers | None) -> None:
        """Take those of a page."""
        if refcounts is None:
            return
        total = page.array(page.total)
        leaked = refcounts > total
        if leaked.any():
            plain = page.array(page.kinds[tally.COPIED] + page.kinds[tally.UNCOPIED])
            places = np.flatnonzero(leaked & (plain == 0))
            self._clusters.append(page.first + places)
            self._wanted.append(total[places].astype(np.int64))
            self.count += len(places)

    def lower(self, fd: int, there: blocks.Blocks) -> None:
        """Write the refcounts, a block at a time."""
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
