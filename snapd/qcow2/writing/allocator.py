"""Which host clusters new data go to, and when those that were let go may be used again.

A cluster that an entry on disk still refers to must keep its bytes: what is released counts as used until the caller
has made the tables durable and says `settle`. Knows no guest addresses.
"""

import numpy as np

from snapd import fsops, units
from snapd.blockmap import Int64Array
from snapd.qcow2.writing.refcounts import Refcounts

_LARGE_BYTES = units.MIB
"""Requests of this size take a free run only if it is as large, so that big writes stay contiguous on disk."""
_KEPT_RUNS = 65_536
"""Free runs remembered. What is beyond is found when the image is opened next."""


class Allocator:
    """Hands out clusters: free runs of the file where they fit, else its end."""

    def __init__(self, fd: int, refcounts: Refcounts, cluster_size: int) -> None:
        """Look for nothing yet; the file is searched for free clusters at the first request."""
        self._fd = fd
        self._refcounts = refcounts
        self._cluster_size = cluster_size
        self._large = max(1, _LARGE_BYTES // cluster_size)
        self._searched = False
        self._small_runs: list[tuple[int, int]] = []
        self._large_runs: list[tuple[int, int]] = []
        self._released: list[Int64Array] = []
        # Where the next compressed cluster goes, up to where clusters were taken for that, and how often the cluster
        # there is referred to.
        self._packed_at = self._packed_end = self._packed_references = 0

    def allocate(self, count: int) -> tuple[int, int]:
        """Return (first cluster, how many): up to count of them in a row, at least one, with a refcount of one."""
        if not self._searched:
            self._search()
        for runs in (self._large_runs,) if count >= self._large else (self._small_runs, self._large_runs):
            if runs:
                first, available = runs.pop()
                taken = min(count, available)
                self._remember(first + taken, available - taken)
                self._refcounts.claim(first, taken)
                return first, taken
        return self._refcounts.extend(count), count

    def allocate_run(self, count: int) -> int:
        """Return the first of exactly count clusters in a row."""
        if not self._searched:
            self._search()
        return self._refcounts.extend(count)

    def allocate_packed(self, lengths: list[int]) -> Int64Array:
        """Return offsets in the file, in bytes, for pieces of up to a cluster's length, as many to a cluster as fit.

        Each piece is one reference to each cluster that it touches. Where the refcounts hold no more, a piece gets a
        cluster of its own.
        """
        places, shared = [], []
        for length in lengths:
            self._make_room(length)
            place = self._packed_at
            if self._packed_references:
                shared.append(place // self._cluster_size)
            places.append(place)
            self._packed_at += length
            here = self._packed_at // self._cluster_size
            if here == place // self._cluster_size:
                self._packed_references += 1
            else:
                self._packed_references = 1 if self._packed_at < self._packed_end else 0
        if shared:
            clusters, by = np.unique(np.array(shared, np.int64), return_counts=True)
            self._refcounts.share(clusters, by)
        return np.array(places, np.int64)

    def _make_room(self, length: int) -> None:
        """Have `length` bytes for a compressed cluster, right behind the one before if that can be."""
        if self._packed_references >= self._refcounts.maximum:
            self._packed_at = self._packed_end
        if self._packed_end - self._packed_at >= length:
            return
        start = self.allocate(1)[0] * self._cluster_size
        if start != self._packed_end or self._packed_at == self._packed_end:
            self._packed_at, self._packed_references = start, 0
        self._packed_end = start + self._cluster_size

    def release(self, clusters: Int64Array) -> None:
        """Take one reference from each of the clusters (one may come several times) once `settle` is called."""
        if len(clusters):
            self._released.append(clusters)

    def retire(self, first: int, count: int) -> None:
        """Release the clusters of a table that moved. They stay unused while the image is open: what was metadata when
        it was opened is refused as a place of data.
        """
        self._refcounts.superseded.append((first, count))

    def settle(self) -> bool:
        """Free what was released, now that nothing durable refers to it: give back its space, and use it again.

        Killed on the way, it leaves leaks; so does a power cut before the file is synced again, if this returns True.
        """
        lowered = bool(self._refcounts.superseded or self._released)
        for first, count in self._refcounts.superseded:
            self._refcounts.lower(np.arange(first, first + count, dtype=np.int64), np.ones(count, np.int64))
            fsops.punch_hole(self._fd, first * self._cluster_size, count * self._cluster_size)
        self._refcounts.superseded.clear()
        if not self._released:
            self._refcounts.write()
            return lowered
        clusters, by = np.unique(np.concatenate(self._released), return_counts=True)
        self._released.clear()
        freed = self._refcounts.lower(clusters, by)
        if (freed == self._packed_at // self._cluster_size).any():
            self._packed_at, self._packed_references = self._packed_end, 0
        self._refcounts.write()
        for first, count in runs_of(freed):
            fsops.punch_hole(self._fd, first * self._cluster_size, count * self._cluster_size)
            self._remember(first, count)
        return lowered

    def _remember(self, first: int, count: int) -> None:
        runs = self._large_runs if count >= self._large else self._small_runs
        if count and self._searched and len(runs) < _KEPT_RUNS:
            runs.append((first, count))

    def _search(self) -> None:
        """Find the clusters within the file that are free."""
        self._searched = True
        per_block = self._refcounts.per_block
        for number in self._refcounts.present().tolist():
            base = number * per_block
            counters = self._refcounts.block(number)
            if counters is None or base >= self._refcounts.end:
                continue
            free = np.flatnonzero(counters[: self._refcounts.end - base] == 0)
            for first, count in runs_of(base + free.astype(np.int64)):
                self._remember(first, count)
            self._refcounts.trim()


def runs_of(numbers: Int64Array) -> list[tuple[int, int]]:
    """Return (first, count) of the runs of consecutive numbers in an ascending array."""
    if len(numbers) == 0:
        return []
    starts = np.concatenate(([0], np.flatnonzero(np.diff(numbers) != 1) + 1))
    counts = np.diff(starts, append=len(numbers))
    return list(zip(numbers[starts].tolist(), counts.tolist(), strict=True))
