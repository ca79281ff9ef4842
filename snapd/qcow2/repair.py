"""Repair of leaks: what a kill leaves behind. Nothing that anything refers to is changed."""

import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from snapd import errors, fsops
from snapd.qcow2 import locks, survey
from snapd.qcow2.image import Image
from snapd.qcow2.refcounts import Refcounts


def repair_leaks(path: pathlib.Path) -> int:
    """Lower the refcounts that are too high of clusters that no standard entry refers to; return how many, durably.

    Where one does refer, its COPIED flag would have to change too, so that such a cluster keeps its refcount. Raises
    errors.Corrupt if the image has worse than leaks, and what `check.check` raises.
    """
    with _opened_alone(path) as (fd, opened), fsops.translated(path):
        found = survey.survey(opened)
        references = found.plain + found.packed
        if found.impossible or (found.refcounts < references).any():
            raise errors.Corrupt(what=path.name, problem="it has worse than leaks, so that references may be missing")
        leaked = np.flatnonzero((found.refcounts > references) & (found.plain == 0)).astype(np.int64)
        if len(leaked) == 0:
            return 0
        refcounts = Refcounts(fd, opened.header, opened.file_size, path.name)
        refcounts.lower(leaked, found.refcounts[leaked].astype(np.int64) - found.packed[leaked])
        refcounts.write()
        fsops.fdatasync(fd)
        return len(leaked)


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
