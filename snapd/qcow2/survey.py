"""A survey of one image: how often each host cluster is referred to, beside the refcount that the file has for it.

Changes nothing and judges little; check and repair do that with it. Source: qcow2 specification, "Host cluster
management".
"""

import dataclasses
import os

import numpy as np
import numpy.typing as npt

from snapd import errors, units
from snapd.blockmap import Int64Array, Kind
from snapd.qcow2 import layout, tables
from snapd.qcow2.header import Header
from snapd.qcow2.image import Image
from snapd.qcow2.refcounts import UInt16Array

Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

_ONE = np.int32(1)
"""Of the counters' own type: numpy adds it 60 times faster than a number that it has to convert."""


@dataclasses.dataclass(slots=True, eq=False)
class Survey:
    """What was counted. The arrays have one element for each host cluster."""

    refcounts: UInt16Array
    """As the file has them."""
    plain: Int32Array
    """References by the header, by tables and by standard entries."""
    packed: Int32Array
    """References by compressed clusters, several of which may share a host cluster."""
    impossible: int
    """Table entries that can't be, and COPIED flags that the refcounts contradict."""
    allocated: int
    """Guest clusters that have a place in the file."""


def survey(opened: Image) -> Survey:
    """Count the references of an open image.

    Raises errors.ImageRefused for internal snapshots, bitmaps and refcounts that aren't 16 bits wide, errors.Corrupt
    for tables that the file's end cuts short.
    """
    header = opened.header
    if header.refcount_order != layout.REFCOUNT_ORDER_DEFAULT:
        raise errors.ImageRefused(problem=f"refcounts of {1 << header.refcount_order} bits are not checked")
    if header.snapshot_count or header.extension(layout.EXTENSION_BITMAPS):
        raise errors.ImageRefused(problem="internal snapshots and bitmaps are not checked")
    fd, name, size = opened.fileno(), opened.path.name, header.cluster_size
    entries = header.refcount_table_clusters * header.pointers_per_cluster
    table = tables.read_table(fd, header.refcount_table_offset, entries, name)
    bad_blocks = (table != 0) & ((table % size != 0) | (table < size) | (table > opened.file_size - size))
    table[bad_blocks] = 0
    l1 = tables.read_table(fd, header.l1_offset, header.l1_size, name)
    bad_tables = tables.bad_pointers(l1, header, opened.file_size)
    l1[bad_tables] = 0

    count = _Count(_read_refcounts(fd, table, size, opened.file_size))
    count.impossible = int(bad_blocks.sum()) + int(bad_tables.sum())
    _count_metadata(count, header, table[table != 0], l1[l1 != 0])
    _count_data(count, opened, l1, table)
    plain = np.cumsum(count.steps[:-1], dtype=np.int32)
    return Survey(count.refcounts, plain, count.packed, count.impossible, count.allocated)


class _Count:
    """A survey in the making."""

    def __init__(self, refcounts: UInt16Array) -> None:
        self.refcounts = refcounts
        self.impossible = 0
        self.allocated = 0
        # Differences between neighbours: a run of any length costs two additions.
        self.steps = np.zeros(len(refcounts) + 1, np.int32)
        self.packed = np.zeros(len(refcounts), np.int32)
        # In a sound image without compressed clusters these are the free ones only.
        self._others = np.flatnonzero(refcounts != 1)

    def refer(self, first: Int64Array, clusters: Int64Array) -> None:
        """Count one reference to each cluster of the runs."""
        np.add.at(self.steps, first, _ONE)
        np.add.at(self.steps, first + clusters, -_ONE)

    def compare_copied(self, copied: BoolArray, first: Int64Array, clusters: Int64Array) -> None:
        """Count the clusters of runs whose COPIED flag says something else than their refcounts."""
        others = np.searchsorted(self._others, first + clusters) - np.searchsorted(self._others, first)
        self.impossible += int(np.where(copied, others, clusters - others).sum())


def _read_refcounts(fd: int, table: Int64Array, cluster_size: int, file_size: int) -> UInt16Array:
    """Return the refcounts of all clusters of the file, and of those beyond its end that have one."""
    per_block = cluster_size // 2
    blocks = np.flatnonzero(table)
    covered = (int(blocks[-1]) + 1) * per_block if len(blocks) else 0
    clusters = units.divide_up(file_size, cluster_size)
    raw = np.zeros(max(covered, clusters), ">u2")
    for number in blocks.tolist():
        block = raw[number * per_block : (number + 1) * per_block]
        os.preadv(fd, [block.view(np.uint8).data], int(table[number]))
    return raw[: max(clusters, end_of_use(raw))].astype(np.uint16)


def end_of_use(refcounts: npt.NDArray[np.uint16]) -> int:
    """Return the number of the first cluster behind all that have a refcount."""
    used = refcounts[::-1] != 0
    return len(refcounts) - int(used.argmax()) if used.any() else 0


def _count_metadata(count: _Count, header: Header, blocks: Int64Array, l1: Int64Array) -> None:
    """Count the header and the tables. Entries are those that are in use and possible."""
    size = header.cluster_size
    l1_clusters = units.divide_up(header.l1_size * layout.ENTRY_SIZE, size)
    first = np.array([0, header.refcount_table_offset, header.l1_offset], np.int64) // size
    count.refer(first, np.array([1, header.refcount_table_clusters, l1_clusters], np.int64))
    l2 = (l1 & layout.OFFSET_MASK) // size
    for clusters in (blocks // size, l2):
        count.refer(clusters, np.ones(len(clusters), np.int64))
    count.compare_copied(l1 < 0, l2, np.ones(len(l2), np.int64))


def _count_data(count: _Count, opened: Image, l1: Int64Array, blocks: Int64Array) -> None:
    """Count what the L2 tables refer to."""
    header, size = opened.header, opened.cluster_size
    known = tables.Metadata.of(header, l1, blocks)
    guests = header.l1_size * header.table_entries
    for found in tables.runs(opened.fileno(), header, l1, 0, guests, opened.path.name):
        judged = tables.judge(found, header, opened.file_size, known)
        count.impossible += int(found.count[judged.bad].sum())
        placed = (judged.length > 0) & ~judged.bad
        count.allocated += int(found.count[placed].sum())
        packed = placed & (judged.kind == Kind.COMPRESSED)
        plain = placed & ~packed
        first, clusters = judged.host[plain] // size, found.count[plain]
        count.refer(first, clusters)
        count.compare_copied(found.entry[plain] < 0, first, clusters)
        first = judged.host[packed] // size
        last = (judged.host[packed] + judged.length[packed] - 1) // size
        # A descriptor can name up to two clusters' worth of sectors, so it touches three at most.
        for step in range(3):
            np.add.at(count.packed, first[first + step <= last] + step, _ONE)
