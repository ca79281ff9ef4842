"""A survey of one image: the references to its host clusters beside the refcounts of the file.

Changes nothing and refuses nothing but unbounded work; check and repair judge with it. Source: qcow2 specification,
"Host cluster management".
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from snapd.qcow2.checking import blocks, entries, references, tally
from snapd.qcow2.format.header import Header

_BEYOND_MAX = 1 << 16
"""Clusters past the end of the file whose refcounts are looked up; those of more are taken for 0."""


@dataclasses.dataclass(slots=True)
class Survey:
    """What was counted."""

    counts: entries.Counts
    """Guest clusters, and corruptions of entries and lists: what refers."""
    verdict: tally.Verdict
    """What the refcounts and the COPIED flags say of the references."""
    incomplete: bool
    """Something that refers can't be followed, so that clusters may be in use that nothing seems to refer to."""
    astray: int
    """L2 tables that lie on other metadata than refcount blocks."""

    @property
    def corruptions(self) -> int:
        """All that is worse than a leak."""
        return self.counts.corruptions + self.verdict.corruptions


OnPage = Callable[[tally.Page, tally.Numbers | None], None]
"""Takes the references of some clusters, and the refcounts if they aren't equal."""


def survey(fd: int, header: Header, file_size: int, on_page: OnPage | None = None) -> Survey:
    """Count the references of an open image of file_size bytes, and have each page of host clusters looked at.

    Raises errors.ImageRefused for an image that would take unbounded work, with what is too many.
    """
    there = blocks.Blocks(fd, header, file_size)
    found = references.References(fd, header, file_size, there)
    verdict = tally.Verdict(corruptions=there.corruptions, check_errors=found.sources.check_errors)
    for page in found.pages():
        refcounts = tally.compare(page, there, found.metadata, verdict)
        if on_page is not None:
            on_page(page, refcounts)
    found.counts.corruptions += _wrong_beyond(found, there)
    incomplete = found.sources.incomplete or found.counts.corruptions > found.counts.unseen
    return Survey(found.counts, verdict, incomplete, found.astray)


def _wrong_beyond(found: references.References, there: blocks.Blocks) -> int:
    """Return how many COPIED flags are wrong of entries that refer to what lies past the end of the file.

    Nobody counts what lies there, and its refcount is 0 as a rule.
    """
    wrong = sum(found.sources.beyond)
    budget = _BEYOND_MAX
    for runs, times in found.beyond:
        budget -= int(runs.count.sum())
        if budget < 0:
            wrong += int(runs.count[runs.copied].sum()) * times
            continue
        clusters = np.repeat(runs.first - np.cumsum(runs.count) + runs.count, runs.count)
        clusters += np.arange(len(clusters))
        wrong += int((there.ones(clusters) != np.repeat(runs.copied, runs.count)).sum()) * times
    return wrong
