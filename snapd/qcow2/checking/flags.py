"""COPIED flags set right in the L1 and L2 tables of an image, where they are.

An entry has the flag if nothing else refers to its cluster. Whoever writes an image takes the flag's word for that, so
that one which must go is urgent, and one that must come is not. Source: qcow2 specification, "Cluster mapping".
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from snapd import fsops
from snapd.blockmap import Int64Array, UInt8Array
from snapd.qcow2.checking import tally
from snapd.qcow2.format import layout
from snapd.qcow2.format.header import Header
from snapd.qcow2.reading import pieces

BoolArray = npt.NDArray[np.bool_]


class Once:
    """Which clusters are referred to exactly once: a bit for each of them."""

    def __init__(self) -> None:
        self._bits: list[UInt8Array] = []
        self._joined: UInt8Array | None = None

    def take(self, page: tally.Page, refcounts: tally.Numbers) -> None:
        """Add a page, the next one, given the refcounts that its clusters are to have."""
        assert page.first % 8 == 0
        self._bits.append(np.packbits(refcounts == 1, bitorder="little"))

    def __call__(self, clusters: Int64Array) -> BoolArray:
        """Say it of each cluster; of one past the end it isn't true."""
        if self._joined is None:
            self._joined = np.concatenate(self._bits)
        place = np.minimum(clusters >> 3, len(self._joined) - 1)
        result: BoolArray = ((self._joined[place] >> (clusters & 7).astype(np.uint8)) & 1 == 1) & (
            clusters >> 3 < len(self._joined)
        )
        return result


def correct(
    fd: int, header: Header, tables: Iterable[Int64Array], once: Once, overlapped: Int64Array, *, setting: bool
) -> None:
    """Set the flags that are missing, or clear those that are wrong. Not durable yet.

    tables are the offsets of the L2 tables that the image's own L1 table refers to. Those that are misaligned, and
    tables whose clusters are overlapped, are left alone: they may be something else.
    """

    def is_table(offset: Int64Array) -> BoolArray:
        aligned: BoolArray = (offset & (header.cluster_size - 1)) == 0
        return aligned & ~np.isin(offset >> header.cluster_bits, overlapped)

    own = np.array([header.l1_offset], np.int64)
    if header.l1_size and is_table(own).all():
        words = pieces.read(fd, own, header.l1_size * layout.ENTRY_SIZE).view(">i8").reshape(1, -1)
        _correct(fd, own, words, 1, _wrong(words.astype(np.int64), header, once, setting))
    for some in tables:
        offset = some[is_table(some)]
        if len(offset):
            words = pieces.read(fd, offset, header.cluster_size).view(">i8").reshape(len(offset), -1)
            step = header.entry_size // layout.ENTRY_SIZE
            entry = words[:, ::step].astype(np.int64)
            wrong = _wrong(entry, header, once, setting) & ((entry & layout.COMPRESSED) == 0)
            _correct(fd, offset, words, step, wrong)


def _wrong(entry: Int64Array, header: Header, once: Once, setting: bool) -> BoolArray:
    """Say which entries lack the flag although they should have it, or have it although they shouldn't."""
    offset = entry & layout.OFFSET_MASK
    alone = once(offset.reshape(-1) >> header.cluster_bits).reshape(offset.shape)
    wrong: BoolArray = (offset != 0) & ((entry < 0) != alone) & (alone == setting)
    return wrong


def _correct(fd: int, offset: Int64Array, words: Int64Array, step: int, wrong: BoolArray) -> None:
    """Change the flags of entries of `step` words each, and write what changed of each table."""
    for number in np.flatnonzero(wrong.any(axis=1)).tolist():
        places = np.flatnonzero(wrong[number]) * step
        first, last = int(places[0]), int(places[-1]) + 1
        words[number, places] ^= np.int64(layout.COPIED)
        fsops.pwrite(fd, words[number, first:last].tobytes(), int(offset[number]) + first * layout.ENTRY_SIZE)
