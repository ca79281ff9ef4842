"""How often each host cluster of an image is referred to, page by page, by everything that refers to one.

Changes nothing and refuses nothing but unbounded work. Memory is bounded by a window of host clusters, whatever the
file's length; each L2 table is read once, however many L1 tables share it. Looks at no refcount. Source: qcow2
specification, "Cluster mapping" and "Host cluster management".
"""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Iterator

import numpy as np

from snapd import errors, units
from snapd.blockmap import Int64Array, UInt8Array
from snapd.qcow2.checking import blocks, entries, sources, tally
from snapd.qcow2.format.header import Header
from snapd.qcow2.reading import pieces

_CLUSTERS_MAX = (1 << 31) - 1
"""Of a file, as for `qemu-img check`."""
_TABLE_BYTES_MAX = 16 * units.GIB
"""Of L2 tables that hold something: twice what a fully mapped disk of 64 TiB has with clusters of 64 KiB."""
_WINDOW = 5 << 22
"""Clusters counted at a time: 80 MiB of counters, with room for a terabyte in clusters of 64 KiB and its tables."""
_KEPT_RUNS = 1 << 21
"""Runs behind the window that are kept for the next ones, lest the tables be read again."""
_CHUNK = 512 * units.KIB
"""Of L2 tables at a time: what the passes over them find in the processor's cache."""
_THREADS = 2
_AHEAD = 2 * _THREADS
"""Chunks that may be under way."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Group:
    """L2 tables that equally many L1 entries refer to."""

    offset: Int64Array
    """Bytes, ascending."""
    active: int
    """Entries of the image's own L1 table."""
    inactive: int
    """Entries of snapshots' tables."""


class References:
    """The references of an open image. Go through the pages, then look at the counts."""

    def __init__(self, fd: int, header: Header, file_size: int, refcounts: blocks.Blocks | None) -> None:
        """Find the tables. Without refcounts, the place that these take in the file is not referred to.

        Raises errors.ImageRefused for an image that would take unbounded work, with what is too many.
        """
        self._fd = fd
        self._header = header
        self._file_size = file_size
        clusters = units.divide_up(file_size, header.cluster_size)
        if clusters > _CLUSTERS_MAX:
            raise errors.ImageRefused(problem=f"a file of {clusters} clusters, more than are checked")
        # One more, since an entry that is misaligned may refer to what begins within the last one.
        self._end = clusters + 1
        self.sources = sources.Sources(fd, header, file_size, with_refcounts=refcounts is not None)
        self.tables = self.sources.tables
        self.groups = self._group()
        self.astray = 0
        """L2 tables that lie on other metadata than refcount blocks: what they say was never meant to refer."""
        self.metadata = self._locate_metadata(np.empty(0, np.int64) if refcounts is None else refcounts.clusters)
        self._page = tally.page_size(header)
        self.counts = entries.Counts(corruptions=self.sources.corruptions, nearest=self.sources.nearest)
        """Guest clusters, and corruptions of entries and tables."""
        self.beyond: list[tuple[entries.Runs, int]] = []
        """Own entries that refer to what lies past the end of the file, and how often each counts."""
        self._kept: list[tuple[int, Int64Array, Int64Array, int]] | None = None

    def pages(self) -> Iterator[tally.Page]:
        """Yield the references to all clusters of the file, ascending."""
        possible = sum((group.active + group.inactive) * len(group.offset) for group in self.groups)
        wide = possible * self._header.table_entries >= 1 << 30
        # Other kinds of references than copied ones are few, unless there are snapshots.
        clusters = units.round_up(_WINDOW >> (int(wide) + int(bool(self._header.snapshot_count))), self._page)
        for first in range(0, self._end, clusters):
            window = tally.Window(first, min(first + clusters, self._end), self._page, wide)
            self._refer_to_metadata(window)
            self._refer_to_data(window)
            for page in window.pages():
                spare = page.first + page.clusters == self._end and page.array(page.total)[-1] == 0
                yield page.without_last() if spare else page
            # Lest the next one be made beside it.
            del window

    def chunks(self) -> Iterator[tuple[Group, entries.Found]]:
        """Yield what the L2 tables refer to, some tables at a time, read ahead by other threads."""

        def read(chunk: Group) -> entries.Found:
            return entries.parse(self.read(chunk), len(chunk.offset), self._header, self._file_size)

        chunks = list(self.pieces())
        if len(chunks) == 1:
            yield chunks[0], read(chunks[0])
            return
        under_way: collections.deque[tuple[Group, concurrent.futures.Future[entries.Found]]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(_THREADS, "qcow2-check") as pool:
            for chunk in chunks:
                under_way.append((chunk, pool.submit(read, chunk)))
                if len(under_way) > _AHEAD:
                    first, result = under_way.popleft()
                    yield first, result.result()
            while under_way:
                first, result = under_way.popleft()
                yield first, result.result()

    def pieces(self) -> Iterator[Group]:
        """Yield the L2 tables, as many at a time as are worth a read."""
        step = max(1, _CHUNK // self._header.cluster_size)
        for group in self.groups:
            for at in range(0, len(group.offset), step):
                yield dataclasses.replace(group, offset=group.offset[at : at + step])

    def read(self, tables: Group) -> UInt8Array:
        """Return the bytes of some L2 tables, one behind the other."""
        return pieces.read(self._fd, tables.offset, self._header.cluster_size)

    def _group(self) -> list[Group]:
        """Return the L2 tables that hold something."""
        found, size = self.tables, self._header.cluster_size
        held = np.flatnonzero(~pieces.in_holes(self._fd, found.offset, size))
        if len(held) * size > _TABLE_BYTES_MAX:
            raise errors.ImageRefused(problem=f"L2 tables of more than {units.format_size(_TABLE_BYTES_MAX)}")
        pairs = np.stack(((found.copied + found.uncopied)[held], found.inactive[held]))
        distinct, which = np.unique(pairs, axis=1, return_inverse=True)
        which = which.reshape(-1)
        offset = found.offset[held]
        return [Group(offset[which == number], *pair) for number, pair in enumerate(distinct.T.tolist())]

    def _locate_metadata(self, block_clusters: Int64Array) -> tally.Metadata:
        first, count = self.sources.fixed()
        fixed = np.repeat(first - np.cumsum(count) + count, count) + np.arange(int(count.sum()))
        places, named = np.unique(block_clusters, return_counts=True)
        once = np.unique(np.concatenate((fixed, places)))
        tables = self.tables.offset >> self._header.cluster_bits
        # Two tables that are misaligned may begin in one cluster.
        first = np.flatnonzero(np.diff(tables, prepend=-1))
        times = np.add.reduceat(self.tables.times, first) if len(first) else self.tables.times
        tables = tables[first]
        self.astray = int(np.isin(tables, fixed).sum())
        apart = ~np.isin(tables, once)
        clusters = np.concatenate((once, tables[apart]))
        allowed = np.concatenate((np.ones_like(once), times[apart]))
        order = np.argsort(clusters, kind="stable")
        clusters, allowed = clusters[order], allowed[order]
        return tally.Metadata(clusters, allowed, places, named)

    def _refer_to_metadata(self, window: tally.Window) -> None:
        window.refer(tally.OTHER, *self.sources.fixed())
        window.refer(tally.OTHER, self.metadata.blocks, np.ones_like(self.metadata.blocks), self.metadata.times)
        tables = self.tables
        clusters = tables.offset >> self._header.cluster_bits
        ones = np.ones_like(clusters)
        window.refer(tally.COPIED, clusters, ones, tables.copied)
        window.refer(tally.UNCOPIED, clusters, ones, tables.uncopied)
        window.refer(tally.OTHER, clusters, ones, tables.inactive)
        astride = (tables.offset & (self._header.cluster_size - 1)) != 0
        window.refer(tally.OTHER, clusters[astride] + 1, ones[astride], tables.times[astride])

    def _refer_to_data(self, window: tally.Window) -> None:
        """Count what L2 tables refer to: as read, or as kept from before."""
        if window.first and self._kept is not None:
            for kind, first, count, times in self._kept:
                window.refer(kind, first, count, times)
            return
        kept: list[tuple[int, Int64Array, Int64Array, int]] | None = []
        size = 0
        for group, found in self.chunks():
            if window.first == 0:
                self.counts.add(found.counts, group.active, group.inactive)
                if len(found.beyond.first) and group.active:
                    self.beyond.append((found.beyond, group.active))
            for kind, first, count, times in _kinds(group, found):
                window.refer(kind, first, count, times)
                if window.end < self._end and kept is not None:
                    behind = first + count > window.end
                    kept.append((kind, first[behind], count[behind], times))
                    size += int(behind.sum())
                    kept = kept if size <= _KEPT_RUNS else None
        self._kept = kept


def _kinds(group: Group, found: entries.Found) -> Iterator[tuple[int, Int64Array, Int64Array, int]]:
    """Yield (kind, first clusters, counts, how often) of what some L2 tables refer to."""
    runs = found.plain
    if group.active:
        if runs.copied.all():
            yield tally.COPIED, runs.first, runs.count, group.active
        else:
            yield tally.COPIED, runs.first[runs.copied], runs.count[runs.copied], group.active
            yield tally.UNCOPIED, runs.first[~runs.copied], runs.count[~runs.copied], group.active
    if group.inactive:
        yield tally.OTHER, runs.first, runs.count, group.inactive
    for others in found.others:
        yield tally.OTHER, others.first, others.count, group.active + group.inactive
