"""Many whole clusters at once out of another file: found, allocated, cloned or copied, and entered in the tables.

What lies in a row in the source goes to a row of new clusters, wherever the guest has it: the kernel is asked once per
row, not once per cluster. Nothing here loops over clusters in Python.
"""

from collections.abc import Iterator

import numpy as np

from snapd import fsops
from snapd.blockmap import Int64Array
from snapd.qcow2.format import layout
from snapd.qcow2.writing.ledger import Ledger

_BATCH = 1 << 16
"""Clusters handled at a time, so that memory doesn't grow with the extents."""


def each_cluster(count: Int64Array) -> Iterator[tuple[Int64Array, Int64Array]]:
    """Yield the clusters of extents that have `count` each, some at a time: which extent, and the number in there."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    for low in range(0, total, _BATCH):
        number = np.arange(low, min(low + _BATCH, total), dtype=np.int64)
        extent = np.searchsorted(ends, number, side="right").astype(np.int64)
        yield extent, number - (ends[extent] - count[extent])


def adopt(fd: int, ledger: Ledger, source_fd: int, start: Int64Array, length: Int64Array, host: Int64Array) -> None:
    """Take extents of the source file, whole clusters of the image each, as the contents of guest ranges.

    start: guest offsets, ascending and disjoint; host: where the bytes lie in the source; all in bytes, of equal length
    n. Clusters that are the image's own are overwritten. Raises OSError.
    """
    size = ledger.header.cluster_size
    for extent, within in each_cluster(length // size):
        guest = start[extent] // size + within
        source = host[extent] + within * size
        old = ledger.gather(guest)
        own = (old & (layout.COPIED | layout.COMPRESSED | layout.ZERO)) == layout.COPIED
        if own.any():
            _move(fd, source_fd, source[own], old[own] & layout.OFFSET_MASK, size)
            if ledger.header.extended_l2:
                ledger.scatter(guest[own], old[own])
        if not own.all():
            _adopt_new(fd, ledger, source_fd, guest[~own], source[~own])


def _adopt_new(fd: int, ledger: Ledger, source_fd: int, guest: Int64Array, source: Int64Array) -> None:
    size = ledger.header.cluster_size
    order = np.argsort(source, kind="stable")
    target = np.empty(len(guest), np.int64)
    done = 0
    while done < len(guest):
        cluster, got = ledger.allocate(len(guest) - done)
        target[order[done : done + got]] = np.arange(cluster, cluster + got, dtype=np.int64) * size
        done += got
    _move(fd, source_fd, source[order], target[order], size)
    ledger.scatter(guest, target | layout.COPIED)


def _move(fd: int, source_fd: int, source: Int64Array, target: Int64Array, size: int) -> None:
    """Have the clusters at `target` hold what those at `source` of the other file do."""
    apart = (np.diff(source) != size) | (np.diff(target) != size)
    heads = np.concatenate((np.zeros(1, np.int64), np.flatnonzero(apart) + 1))
    lengths = np.diff(heads, append=len(source)) * size
    for begin, to, length in zip(source[heads].tolist(), target[heads].tolist(), lengths.tolist(), strict=True):
        if not fsops.clone_range(source_fd, fd, begin, to, length):
            fsops.copy_range(source_fd, fd, begin, to, length)
