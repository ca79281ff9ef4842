"""References to host clusters, counted for a window of the file at a time and compared with the refcounts it has.

Runs are counted as differences between neighbours, so that one of any length costs two additions, and a stretch in
which none begins or ends is compared as a whole. Knows nothing of what refers.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from snapd.blockmap import Int64Array, UInt8Array
from snapd.qcow2.checking.blocks import Blocks
from snapd.qcow2.format import counters
from snapd.qcow2.format.header import Header

COPIED, UNCOPIED, OTHER = range(3)
"""Kinds of references: by own standard entries (of L1 and L2) that have the COPIED flag; by those that lack it; by all
else."""

Numbers = npt.NDArray[np.signedinteger]
Count = Numbers | int
"""For each cluster of a page, or one number for them all."""

_PAGE = 1 << 18
"""Clusters compared at a time, if a refcount block doesn't have more."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Page:
    """The references to some clusters in a row. Starts where a refcount block does."""

    first: int
    clusters: int
    kinds: tuple[Count, Count, Count]
    """COPIED, UNCOPIED, OTHER."""

    @property
    def total(self) -> Count:
        """References of all kinds."""
        # Most pages have one kind only, and adding nothing costs a pass over them.
        present = [kind for kind in self.kinds if not isinstance(kind, int) or kind]
        total: Count = 0
        for kind in present:
            total = kind if isinstance(total, int) and total == 0 else total + kind
        return total

    def array(self, count: Count) -> Numbers:
        """Return a count as an array."""
        return np.full(self.clusters, count, np.int64) if isinstance(count, int) else count

    def without_last(self) -> "Page":
        """Return the page but for its last cluster."""
        copied, uncopied, other = (kind if isinstance(kind, int) else kind[:-1] for kind in self.kinds)
        return Page(self.first, self.clusters - 1, (copied, uncopied, other))


class Window:
    """References to the clusters [first, end)."""

    def __init__(self, first: int, end: int, page: int, wide: bool) -> None:
        """Wide counters are needed where more than 2**31 references are possible."""
        self.first = first
        self.end = end
        self._page = page
        self._dtype = np.dtype(np.int64 if wide else np.int32)
        self._steps: list[Numbers | None] = [None, None, None]
        self._touched = np.zeros((3, (end - first) // page + 1), np.bool_)

    def refer(self, kind: int, first: Int64Array, count: Int64Array, times: int | Int64Array = 1) -> None:
        """Count references to runs of clusters; what lies outside of the window is left out."""
        if len(first) == 0:
            return
        low, high = first - self.first, first + (count - self.first)
        if low.min() < 0 or high.max() > self.end - self.first:
            size = self.end - self.first
            low, high = np.clip(low, 0, size), np.clip(high, 0, size)
        weight = np.asarray(times).astype(self._dtype)
        steps = self._steps[kind]
        if steps is None:
            # What is never touched is never given memory by the kernel.
            steps = self._steps[kind] = np.zeros(self.end - self.first + 1, self._dtype)
        np.add.at(steps, low, weight)
        np.add.at(steps, high, -weight)
        shift = self._page.bit_length() - 1
        self._touched[kind, low >> shift] = True
        self._touched[kind, high >> shift] = True

    def pages(self) -> Iterator[Page]:
        """Yield the counts in order. The last page of a window may be short."""
        before = [0, 0, 0]
        for number, first in enumerate(range(self.first, self.end, self._page)):
            end = min(first + self._page, self.end)
            low, high = first - self.first, end - self.first
            kinds: list[Count] = []
            for kind in range(3):
                steps = self._steps[kind]
                # Runs that continue each other have begun and ended there, and leave no difference.
                if steps is not None and self._touched[kind, number] and steps[low:high].any():
                    counts = np.cumsum(steps[low:high], dtype=self._dtype)
                    if before[kind]:
                        counts += before[kind]
                    before[kind] = int(counts[-1])
                    kinds.append(counts)
                else:
                    kinds.append(before[kind])
            yield Page(first, end - first, (kinds[0], kinds[1], kinds[2]))


def page_size(header: Header) -> int:
    """Return how many clusters a page has: whole refcount blocks."""
    return max(_PAGE, counters.per_block(header.refcount_order, header.cluster_bits))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Metadata:
    """Where metadata lies. Clusters ascending, each once."""

    clusters: Int64Array
    allowed: Int64Array
    """References that are in order: one, or as many as there are L1 entries for an L2 table."""
    blocks: Int64Array
    """Clusters of refcount blocks, each once."""
    times: Int64Array
    """How often the refcount table names each of them."""

    def overlapped(self, page: Page) -> Int64Array:
        """Return the clusters of metadata in a page that something else refers to as well."""
        low, high = np.searchsorted(self.clusters, (page.first, page.first + page.clusters)).tolist()
        clusters = self.clusters[low:high]
        if low == high:
            return clusters
        found: Int64Array = clusters[page.array(page.total)[clusters - page.first] > self.allowed[low:high]]
        return found


@dataclasses.dataclass(slots=True)
class Verdict:
    """What was found out by comparing."""

    leaks: int = 0
    corruptions: int = 0
    unseen: int = 0
    """Those of the corruptions that QEMU takes for sound."""
    check_errors: int = 0
    highest: int = 0
    """The last cluster that has a refcount or is referred to."""
    flags: int = 0
    """Those of the corruptions that are COPIED flags."""
    free: int = 0
    """Clusters that are referred to and have no refcount."""
    overlaps: int = 0
    """Clusters of metadata that something else refers to as well."""
    shared: int = 0
    """Clusters that the image's own standard entries refer to more than once."""

    def add_flags(self, wrong: int) -> None:
        """Count COPIED flags that the refcounts contradict."""
        self.flags += wrong
        self.corruptions += wrong


def compare(page: Page, blocks: Blocks, metadata: Metadata, verdict: Verdict) -> Numbers | None:
    """Add what a page's references and refcounts say to the verdict.

    Returns the refcounts, or None if all are equal to the references.
    """
    first_block = page.first // blocks.per_block
    last_block = first_block + -(-page.clusters // blocks.per_block)
    raw = blocks.raw(first_block, last_block)
    total = page.total
    if isinstance(total, int) and total <= blocks.maximum and len(blocks.unreadable(first_block, last_block)) == 0:
        if raw is None and total == 0:
            return None
        if (
            raw is not None
            and page.clusters % blocks.per_block == 0
            and (raw == _pattern(total, blocks, len(raw))).all()
        ):
            _add_equal(page, total, verdict)
            return None
    refcounts = _unpack(page, blocks, raw)
    _compare_arrays(page, refcounts, blocks, metadata, verdict)
    return refcounts


def refcounts_of(page: Page, blocks: Blocks) -> Numbers:
    """Return the refcounts that a page's clusters have in the file; 0 where they can't be read."""
    first = page.first // blocks.per_block
    return _unpack(page, blocks, blocks.raw(first, first + -(-page.clusters // blocks.per_block)))


def _unpack(page: Page, blocks: Blocks, raw: UInt8Array | None) -> Numbers:
    if raw is None:
        return np.zeros(page.clusters, np.int64)
    return _signed(counters.unpack(raw, blocks.order)[: page.clusters])


def _pattern(total: int, blocks: Blocks, length: int) -> UInt8Array:
    some = np.frombuffer(counters.pack(np.full(64, total, counters.dtype(blocks.order)), blocks.order), np.uint8)
    return np.resize(some, length)


def _signed(refcounts: counters.Counters) -> Numbers:
    """Return refcounts as a type that mixes with signed ones; those above 2**62 are taken for that."""
    if refcounts.dtype.itemsize < 8:
        return refcounts.astype(np.int32 if refcounts.dtype.itemsize < 4 else np.int64)
    return np.minimum(refcounts, 1 << 62).astype(np.int64)


def _add_equal(page: Page, total: int, verdict: Verdict) -> None:
    if total:
        verdict.highest = page.first + page.clusters - 1
    copied, uncopied, _ = page.kinds
    assert isinstance(copied, int)
    assert isinstance(uncopied, int)
    verdict.add_flags((uncopied if total == 1 else copied) * page.clusters)
    verdict.shared += page.clusters if copied + uncopied > 1 else 0


def _compare_arrays(page: Page, refcounts: Numbers, blocks: Blocks, metadata: Metadata, verdict: Verdict) -> None:
    total = page.array(page.total)
    readable = _readable(page, blocks)
    if readable is not None:
        verdict.check_errors += int((~readable).sum())
        refcounts[~readable] = total[~readable]
    over = total - blocks.maximum if blocks.maximum < 1 << 31 else None
    if over is not None and (over > 0).any():
        verdict.corruptions += int(over[over > 0].sum())
        total = np.minimum(total, blocks.maximum)
    differ = np.flatnonzero(refcounts != total)
    if len(differ):
        there, wanted = refcounts[differ], total[differ]
        verdict.leaks += int((there > wanted).sum())
        verdict.corruptions += int((there < wanted).sum())
        verdict.free += int((there == 0).sum())
    used = (refcounts[::-1] != 0) | (total[::-1] != 0)
    if used.any():
        verdict.highest = page.first + page.clusters - 1 - int(used.argmax())
    _compare_flags(page, refcounts, readable, verdict)
    _look_for_overlaps(page, refcounts, blocks, metadata, verdict)


def _readable(page: Page, blocks: Blocks) -> npt.NDArray[np.bool_] | None:
    """Say of each cluster whether its refcount can be read; None if all can."""
    first = page.first // blocks.per_block
    unreadable = blocks.unreadable(first, first + -(-page.clusters // blocks.per_block))
    if len(unreadable) == 0:
        return None
    readable = np.ones(page.clusters, np.bool_)
    for number in unreadable.tolist():
        low = number * blocks.per_block - page.first
        readable[low : low + blocks.per_block] = False
    return readable


def _compare_flags(page: Page, refcounts: Numbers, readable: npt.NDArray[np.bool_] | None, verdict: Verdict) -> None:
    copied, uncopied, _ = page.kinds
    if not isinstance(copied, int) or copied:
        others = np.flatnonzero(refcounts != 1 if readable is None else (refcounts != 1) & readable)
        verdict.add_flags(int(page.array(copied)[others].sum()))
    if not isinstance(uncopied, int) or uncopied:
        ones = np.flatnonzero(refcounts == 1 if readable is None else (refcounts == 1) & readable)
        verdict.add_flags(int(page.array(uncopied)[ones].sum()))
    own = page.array(copied + uncopied)
    if own.max(initial=0) > 1:
        verdict.shared += int((own > 1).sum())


def _look_for_overlaps(page: Page, refcounts: Numbers, blocks: Blocks, metadata: Metadata, verdict: Verdict) -> None:
    overlapped = metadata.overlapped(page) - page.first
    verdict.overlaps += len(overlapped)
    low, high = np.searchsorted(metadata.blocks, (page.first, page.first + page.clusters)).tolist()
    places, times = metadata.blocks[low:high] - page.first, metadata.times[low:high]
    total = page.array(page.total)
    # QEMU sees a low refcount only; where the refcounts allow for the overlap, it sees nothing at all.
    unseen = np.setdiff1d(overlapped[refcounts[overlapped] >= total[overlapped]], places)
    verdict.unseen += len(unseen)
    verdict.corruptions += len(unseen)
    if blocks.maximum > 1:
        verdict.corruptions += int(np.where(total[places] > times, times, times - 1).sum())
