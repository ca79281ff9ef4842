"""A survey of one image: everything that refers to a host cluster counted once, beside the refcounts of the file.

Changes nothing and refuses nothing but unbounded work; check and repair judge with it. Memory is bounded by a window of
host clusters, whatever the file's length. Source: qcow2 specification, "Host cluster management".
"""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from snapd import errors, units
from snapd.blockmap import Int64Array
from snapd.qcow2 import blocks, entries, pieces, sources, tally
from snapd.qcow2.header import Header
from snapd.qcow2.image import Image

_CLUSTERS_MAX = (1 << 31) - 1
"""Of a file, as for `qemu-img check`."""
_TABLE_BYTES_MAX = 16 * units.GIB
"""Of L2 tables that hold something: more than a fully mapped disk of 64 TiB has with clusters of 64 KiB."""
_WINDOW = 5 << 22
"""Clusters counted at a time: 80 MiB of counters, with room for a terabyte in clusters of 64 KiB and its tables."""
_KEPT_RUNS = 1 << 21
"""Runs behind the window that are kept for the next ones, lest the tables be read again."""
_CHUNK = 2 * units.MIB
"""Of L2 tables at a time: what the passes over them find in the processor's cache."""
_THREADS = 2
_AHEAD = 2 * _THREADS
"""Chunks that may be under way."""
_BEYOND_MAX = 1 << 16
"""Clusters past the end of the file whose refcounts are looked up; those of more are taken for 0."""


@dataclasses.dataclass(slots=True)
class Survey:
    """What was counted."""

    counts: entries.Counts
    """Guest clusters, and corruptions of entries and tables."""
    verdict: tally.Verdict
    """What the refcounts say of the references."""


OnPage = Callable[[tally.Page, tally.Numbers | None], None]
"""Takes the references of some clusters, and the refcounts if they aren't equal."""


def survey(opened: Image, on_page: OnPage | None = None) -> Survey:
    """Count the references of an open image, and have each page of host clusters looked at.

    Raises errors.ImageRefused for an image that would take unbounded work, with what is too many.
    """
    return _Count(opened).run(on_page)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Group:
    """L2 tables that equally many L1 entries refer to."""

    offset: Int64Array
    """Bytes, ascending."""
    active: int
    """Entries of the image's own L1 table."""
    inactive: int
    """Entries of snapshots' tables."""


def groups(found: sources.L2Tables, fd: int, cluster_size: int) -> list[Group]:
    """Return the L2 tables that hold something. Raises errors.ImageRefused if they are too many."""
    held = np.flatnonzero(~pieces.in_holes(fd, found.offset, cluster_size))
    if len(held) * cluster_size > _TABLE_BYTES_MAX:
        raise errors.ImageRefused(problem=f"L2 tables of more than {_TABLE_BYTES_MAX} bytes")
    offset = found.offset[held]
    active, inactive = (found.copied + found.uncopied)[held], found.inactive[held]
    pairs, which = np.unique(np.stack((active, inactive)), axis=1, return_inverse=True)
    return [Group(offset[which.reshape(-1) == number], *pair) for number, pair in enumerate(pairs.T.tolist())]


def parsed(fd: int, header: Header, file_size: int, found: list[Group]) -> Iterator[tuple[Group, entries.Found]]:
    """Yield what the L2 tables refer to, some tables at a time, read ahead by other threads."""
    step = max(1, _CHUNK // header.cluster_size)
    chunks = [
        dataclasses.replace(group, offset=group.offset[at : at + step])
        for group in found
        for at in range(0, len(group.offset), step)
    ]

    def read(chunk: Group) -> entries.Found:
        raw = pieces.read(fd, chunk.offset, header.cluster_size)
        return entries.parse(raw, len(chunk.offset), header, file_size)

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


class _Count:
    """A survey in the making."""

    def __init__(self, opened: Image) -> None:
        self._header = opened.header
        self._fd = opened.fileno()
        self._file_size = opened.file_size
        clusters = units.divide_up(opened.file_size, opened.cluster_size)
        if clusters > _CLUSTERS_MAX:
            raise errors.ImageRefused(problem=f"a file of {clusters} clusters, more than are checked")
        # One more, since an entry that is misaligned may refer to what begins within the last one.
        self._end = clusters + 1
        self._sources = sources.Sources(self._fd, self._header, self._file_size)
        self._tables = self._sources.tables
        self._blocks = blocks.Blocks(self._fd, self._header, self._file_size)
        self._metadata = self._make_metadata()
        self._groups = groups(self._tables, self._fd, self._header.cluster_size)
        self._counts = entries.Counts()
        self._verdict = tally.Verdict(check_errors=self._sources.check_errors)
        self._beyond: list[tuple[entries.Runs, int]] = []
        self._kept: list[tuple[int, Int64Array, Int64Array, int]] | None = []

    def run(self, on_page: OnPage | None) -> Survey:
        """Go through the file, a window at a time."""
        possible = sum((group.active + group.inactive) * len(group.offset) for group in self._groups)
        wide = possible * self._header.table_entries >= 1 << 30
        page = tally.page_size(self._blocks)
        clusters = _WINDOW >> (int(wide) + int(bool(self._header.snapshot_count)))
        clusters = units.round_up(clusters, page)
        for first in range(0, self._end, clusters):
            window = tally.Window(first, min(first + clusters, self._end), page, wide)
            self._refer_to_metadata(window)
            self._refer_to_data(window)
            for each in window.pages():
                self._compare(each, on_page)
        self._counts.corruptions += self._sources.corruptions + self._blocks.corruptions
        self._count_beyond()
        return Survey(self._counts, self._verdict)

    def _compare(self, page: tally.Page, on_page: OnPage | None) -> None:
        if page.first + page.clusters == self._end:
            last = page.array(page.total)[-1]
            if last == 0:
                page = _without_last(page)
        refcounts = tally.compare(page, self._blocks, self._metadata, self._verdict)
        if on_page is not None:
            on_page(page, refcounts)

    def _make_metadata(self) -> tally.Metadata:
        first, count = self._sources.fixed()
        fixed = np.repeat(first - np.cumsum(count) + count, count) + np.arange(int(count.sum()))
        places, times = np.unique(self._blocks.clusters, return_counts=True)
        once = np.concatenate((fixed, places))
        tables = self._tables.offset >> self._header.cluster_bits
        many = self._tables.copied + self._tables.uncopied + self._tables.inactive
        clusters, which = np.unique(np.concatenate((once, tables)), return_inverse=True)
        allowed = np.zeros(len(clusters), np.int64)
        np.add.at(allowed, which[len(once) :], many)
        allowed[which[: len(once)]] = 1
        return tally.Metadata(clusters, allowed, places, times)

    def _refer_to_metadata(self, window: tally.Window) -> None:
        window.refer(tally.OTHER, *self._sources.fixed())
        window.refer(tally.OTHER, self._metadata.blocks, np.ones_like(self._metadata.blocks), self._metadata.times)
        tables = self._tables
        clusters = tables.offset >> self._header.cluster_bits
        ones = np.ones_like(clusters)
        window.refer(tally.COPIED, clusters, ones, tables.copied)
        window.refer(tally.UNCOPIED, clusters, ones, tables.uncopied)
        window.refer(tally.OTHER, clusters, ones, tables.inactive)
        misaligned = (tables.offset & (self._header.cluster_size - 1)) != 0
        if misaligned.any():
            times = (tables.copied + tables.uncopied + tables.inactive)[misaligned]
            window.refer(tally.OTHER, clusters[misaligned] + 1, ones[misaligned], times)

    def _refer_to_data(self, window: tally.Window) -> None:
        """Count what L2 tables refer to: as read, or as kept from before."""
        if window.first and self._kept is not None:
            for kind, first, count, times in self._kept:
                window.refer(kind, first, count, times)
            return
        kept: list[tuple[int, Int64Array, Int64Array, int]] | None = []
        size = 0
        for group, found in parsed(self._fd, self._header, self._file_size, self._groups):
            if window.first == 0:
                self._counts.add(found.counts, group.active, group.inactive)
                if len(found.beyond.first) and group.active:
                    self._beyond.append((found.beyond, group.active))
            for kind, first, count, times in _references(group, found):
                window.refer(kind, first, count, times)
                if window.end < self._end and kept is not None:
                    behind = first + count > window.end
                    kept.append((kind, first[behind], count[behind], times))
                    size += int(behind.sum())
                    kept = kept if size <= _KEPT_RUNS else None
        self._kept = kept

    def _count_beyond(self) -> None:
        """Count wrong flags of entries that refer to what lies past the end, where refcounts are 0 as a rule."""
        self._counts.corruptions += sum(self._sources.beyond)
        budget = _BEYOND_MAX
        for runs, times in self._beyond:
            wrong = int(runs.count[runs.copied].sum())
            budget -= int(runs.count.sum())
            if budget >= 0:
                clusters = np.repeat(runs.first - np.cumsum(runs.count) + runs.count, runs.count)
                clusters += np.arange(len(clusters))
                wrong = int((self._blocks.ones(clusters) != np.repeat(runs.copied, runs.count)).sum())
            self._counts.corruptions += wrong * times


def _references(group: Group, found: entries.Found) -> Iterator[tuple[int, Int64Array, Int64Array, int]]:
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


def _without_last(page: tally.Page) -> tally.Page:
    kinds = tuple(kind if isinstance(kind, int) else kind[:-1] for kind in page.kinds)
    return tally.Page(page.first, page.clusters - 1, (kinds[0], kinds[1], kinds[2]))
