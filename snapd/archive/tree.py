"""The pages of a recording: a base's tree with changes on top, and how many entries refer to each pack.

Pages above the leaves are held in memory (14 MB for 16 TiB), of the leaves only the latest, 8 MB; the others wait in
a scratch file. Pages of the base are read when something below them changes. Knows neither packs nor hashing: it is
given a way to read a page and one to store it. Not thread-safe.
"""

import itertools
import os
import pathlib
from collections.abc import Callable
from typing import Final

import numpy as np

from snapd import blockmap, fsops
from snapd.archive import pages

_LEAVES_IN_MEMORY: Final = 512

ReadPage = Callable[[pages.Entry], bytes]
StorePage = Callable[[bytes], pages.Entry]


class Scratch:
    """Pages that don't fit into memory, by number, in a file without a name."""

    def __init__(self, path: pathlib.Path) -> None:
        """Use a file at `path`, created when the first page comes and unlinked at once."""
        self._path = path
        self._fd: int | None = None

    def write(self, number: int, page: bytearray) -> None:
        """Keep a page. Raises errors.StorageFull, errors.StorageFailed."""
        with fsops.translated(self._path):
            if self._fd is None:
                fsops.unlink(self._path, durable=False)
                self._fd = fsops.create(self._path)
                fsops.unlink(self._path, durable=False)
            fsops.pwrite(self._fd, page, number * pages.PAGE_SIZE)

    def read(self, number: int) -> bytearray:
        """Return a page that was written."""
        assert self._fd is not None, "read before write"
        with fsops.translated(self._path):
            page = bytearray(os.pread(self._fd, pages.PAGE_SIZE, number * pages.PAGE_SIZE))
        assert len(page) == pages.PAGE_SIZE, "a page that was never written"
        return page

    def close(self) -> None:
        """Give the space back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Tree:
    """A tree of pages that changes."""

    def __init__(self, blocks: int, read_page: ReadPage, scratch: Scratch) -> None:
        """Begin with a disk of so many blocks that reads as zeros."""
        self.depth = pages.depth_for(blocks)
        self.references: dict[bytes, int] = {}
        """How many entries, the root's included, refer to each pack."""
        self._blocks = blocks
        self._read_page = read_page
        self._scratch = scratch
        self._root = pages.NOTHING
        self._leaves: dict[int, bytearray] = {}
        self._spilled: set[int] = set()
        self._inner: dict[tuple[int, int], bytearray] = {}
        self._changed: list[set[int]] = [set() for _ in range(self.depth + 1)]

    def inherit(self, root: pages.Entry, blocks: int, references: dict[bytes, int]) -> None:
        """Take over the tree of a base of so many blocks; what lies past the end of this disk is dropped."""
        self.references = dict(references)
        depth = pages.depth_for(blocks)
        for level in range(depth - 1, self.depth - 1, -1):
            if root.is_nothing:
                break
            page = self._read_page(root)
            for position in range(1, pages.FANOUT):
                self._release(level - 1, pages.decode(page, position))
            self._drop(root)
            root = pages.decode(page, 0)
        self._root = root
        if depth < self.depth and not root.is_nothing:
            # The disk has grown past what the base's root can reach: it becomes the first entry of the pages on top.
            self._root = pages.NOTHING
            for level in range(depth, self.depth):
                self._inner[level, 0] = bytearray(pages.PAGE_SIZE)
                self._changed[level].add(0)
            self._inner[depth, 0][: pages.SIZE] = root.encode()
        if self._blocks < blocks and not root.is_nothing:
            self._cut(self.depth - 1, 0)

    def replace(self, number: int, entry: pages.Entry) -> None:
        """Have block `number` be what entry says."""
        leaf, position = divmod(number, pages.FANOUT)
        if entry.is_nothing and self._leaf_is_nothing(leaf):
            return
        self._set(self._leaf(leaf), position, entry)

    def clear(self, numbers: blockmap.Int64Array) -> None:
        """Have blocks read as zeros. `numbers` ascend."""
        leaves = numbers // pages.FANOUT
        bounds = np.flatnonzero(np.concatenate(([True], leaves[1:] != leaves[:-1]))) if len(leaves) else leaves
        for first, last in itertools.pairwise([*bounds.tolist(), len(leaves)]):
            leaf = int(leaves[first])
            if self._leaf_is_nothing(leaf):
                continue
            page = self._leaf(leaf)
            for position in (numbers[first:last] % pages.FANOUT).tolist():
                self._set(page, position, pages.NOTHING)

    def write(self, store_page: StorePage) -> pages.Entry:
        """Store the pages that changed, the leaves first, and return the root's entry. `references` is exact then."""
        for leaf in sorted(self._leaves.keys() | self._spilled):
            self._write(0, leaf, self._leaf(leaf), store_page)
        for level in range(1, self.depth):
            for number in sorted(self._changed[level]):
                self._write(level, number, self._inner[level, number], store_page)
        return self._root

    def _write(self, level: int, number: int, page: bytearray, store_page: StorePage) -> None:
        entry = pages.NOTHING if page == _EMPTY_PAGE else store_page(bytes(page))
        if level == self.depth - 1:
            if entry.name != self._root.name:
                self._count(self._root, entry)
                self._root = entry
            return
        above, position = divmod(number, pages.FANOUT)
        parent = self._page(level + 1, above)
        if entry.name != pages.decode(parent, position).name:
            self._set(parent, position, entry)
            self._changed[level + 1].add(above)

    # --- pages ---

    def _entry_of(self, level: int, number: int) -> pages.Entry:
        """Return the entry of a page."""
        if level == self.depth - 1:
            return self._root
        above, position = divmod(number, pages.FANOUT)
        return pages.decode(self._page(level + 1, above), position)

    def _load(self, entry: pages.Entry) -> bytearray:
        return bytearray(pages.PAGE_SIZE) if entry.is_nothing else bytearray(self._read_page(entry))

    def _page(self, level: int, number: int) -> bytearray:
        """Return a page above the leaves."""
        page = self._inner.get((level, number))
        if page is None:
            page = self._inner[level, number] = self._load(self._entry_of(level, number))
        return page

    def _leaf(self, number: int) -> bytearray:
        """Return a leaf that is about to change."""
        page = self._leaves.get(number)
        if page is not None:
            return page
        page = self._scratch.read(number) if number in self._spilled else self._load(self._entry_of(0, number))
        while len(self._leaves) >= _LEAVES_IN_MEMORY:
            # Blocks come roughly in the order of the disk, so the leaf that came first is the one that is complete.
            oldest = next(iter(self._leaves))
            self._scratch.write(oldest, self._leaves.pop(oldest))
            self._spilled.add(oldest)
        self._leaves[number] = page
        return page

    def _leaf_is_nothing(self, number: int) -> bool:
        return number not in self._leaves and number not in self._spilled and self._entry_of(0, number).is_nothing

    # --- references ---

    def _set(self, page: bytearray, position: int, entry: pages.Entry) -> None:
        self._count(pages.decode(page, position), entry)
        page[position * pages.SIZE : (position + 1) * pages.SIZE] = entry.encode()

    def _count(self, old: pages.Entry, new: pages.Entry) -> None:
        if not new.is_nothing:
            self.references[new.pack] = self.references.get(new.pack, 0) + 1
        self._drop(old)

    def _drop(self, entry: pages.Entry) -> None:
        if entry.is_nothing:
            return
        left = self.references.get(entry.pack, 0) - 1
        if left > 0:
            self.references[entry.pack] = left
        else:
            self.references.pop(entry.pack, None)

    def _release(self, level: int, entry: pages.Entry) -> None:
        """Drop an entry of a page at level (-1: of a block), and all that lies below it."""
        if entry.is_nothing:
            return
        if level >= 0:
            page = self._read_page(entry)
            for position in range(pages.FANOUT):
                self._release(level - 1, pages.decode(page, position))
        self._drop(entry)

    def _cut(self, level: int, number: int) -> None:
        """Clear what a page at the end of the disk holds past it, and its last child likewise."""
        span = pages.FANOUT**level
        first = number * pages.FANOUT
        page = self._leaf(number) if level == 0 else self._page(level, number)
        for position in range(pages.FANOUT):
            entry = pages.decode(page, position)
            if entry.is_nothing:
                continue
            start = (first + position) * span
            if start >= self._blocks:
                self._release(level - 1, entry)
                page[position * pages.SIZE : (position + 1) * pages.SIZE] = pages.NOTHING_ENCODED
            elif level > 0 and start + span > self._blocks:
                self._cut(level - 1, first + position)
        self._changed[level].add(number)


_EMPTY_PAGE: Final = bytes(pages.PAGE_SIZE)
