"""Trees of pages: any depth, little memory, exact counts."""

import pathlib
import random

import numpy as np
import pytest

from snapd.archive import pages, tree

PACK = [bytes([number]) * 16 for number in range(8)]


class Shelf:
    """Pages by their entries, in memory."""

    def __init__(self) -> None:
        self.stored: dict[pages.Entry, bytes] = {}

    def read(self, entry: pages.Entry) -> bytes:
        return self.stored[entry]

    def store(self, page: bytes) -> pages.Entry:
        entry = pages.Entry(hash(page).to_bytes(32, "little", signed=True), PACK[0], len(self.stored), 1)
        self.stored[entry] = page
        return entry

    def look(self, root: pages.Entry, depth: int, number: int) -> pages.Entry:
        """Return a block's entry in a stored tree."""
        for level in range(depth - 1, -1, -1):
            if root.is_nothing:
                return root
            root = pages.decode(self.stored[root], number // pages.FANOUT**level % pages.FANOUT)
        return root


def block(number: int) -> pages.Entry:
    return pages.Entry((number + 1).to_bytes(32, "little"), PACK[1 + number % 7], number % 1000, 7)


@pytest.mark.parametrize(
    ("blocks", "depth"), [(0, 1), (1, 1), (256, 1), (257, 2), (65536, 2), (65537, 3), (1 << 24, 3), ((1 << 24) + 1, 4)]
)
def test_a_tree_is_as_deep_as_its_disk_needs(blocks: int, depth: int) -> None:
    assert pages.depth_for(blocks) == depth


def test_only_the_way_to_what_changed_is_stored(tmp_path: pathlib.Path) -> None:
    shelf = Shelf()
    grown = tree.Tree(1 << 22, shelf.read, tree.Scratch(tmp_path / "scratch"))
    grown.replace(1_000_000, block(5))
    root = grown.write(shelf.store)
    assert len(shelf.stored) == 3
    again = tree.Tree(1 << 22, shelf.read, tree.Scratch(tmp_path / "scratch"))
    again.inherit(root, 1 << 22, grown.references)
    again.replace(3, block(6))
    root = again.write(shelf.store)
    assert [shelf.look(root, 3, number) for number in (3, 4, 1_000_000)] == [block(6), pages.NOTHING, block(5)]
    assert len(shelf.stored) == 6
    assert again.references == {PACK[0]: 5, PACK[6]: 1, PACK[7]: 1}


@pytest.mark.parametrize("seed", range(2))
def test_leaves_beyond_those_in_memory_wait_in_the_scratch_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(tree, "_LEAVES_IN_MEMORY", 8)
    shelf, rng = Shelf(), random.Random(seed)
    scratch = tree.Scratch(tmp_path / "scratch")
    grown = tree.Tree(100_000, shelf.read, scratch)
    expected: dict[int, pages.Entry] = {}
    for _ in range(3000):
        number = rng.randrange(100_000)
        if rng.random() < 0.2 and expected:
            number = rng.choice(list(expected))
            del expected[number]
            grown.clear(np.array([number], np.int64))
        else:
            expected[number] = block(rng.randrange(1 << 20))
            grown.replace(number, expected[number])
    assert len(grown._leaves) <= 8
    assert list(tmp_path.iterdir()) == [], "the scratch file has no name, so a kill leaves nothing"
    root = grown.write(shelf.store)
    scratch.close()
    counts: dict[bytes, int] = {}
    for entry in [*expected.values(), *shelf.stored]:
        counts[entry.pack] = counts.get(entry.pack, 0) + 1
    assert grown.references == counts
    again = tree.Tree(100_000, shelf.read, tree.Scratch(tmp_path / "scratch"))
    again.inherit(root, 100_000, grown.references)
    assert all(shelf.look(root, 3, number) == entry for number, entry in expected.items())
    again.clear(np.arange(100_000, dtype=np.int64))
    assert again.write(shelf.store).is_nothing
    assert again.references == {}


@pytest.mark.parametrize("blocks", [0, 1, 200, 256, 257, 60_000, 65_536, 65_537, 200_000])
def test_what_lies_past_the_end_of_a_smaller_disk_is_let_go(tmp_path: pathlib.Path, blocks: int) -> None:
    shelf = Shelf()
    large = tree.Tree(200_000, shelf.read, tree.Scratch(tmp_path / "scratch"))
    numbers = [0, 199, 200, 255, 256, 59_999, 65_535, 65_536, 199_999]
    for number in numbers:
        large.replace(number, block(number))
    root = large.write(shelf.store)
    cut = tree.Tree(blocks, shelf.read, tree.Scratch(tmp_path / "scratch"))
    cut.inherit(root, 200_000, large.references)
    kept = [number for number in numbers if number < blocks]
    root = cut.write(shelf.store)
    assert all(shelf.look(root, cut.depth, number) == block(number) for number in kept)
    counts = {pack_id: count for pack_id, count in cut.references.items() if pack_id != PACK[0]}
    expected: dict[bytes, int] = {}
    for number in kept:
        expected[block(number).pack] = expected.get(block(number).pack, 0) + 1
    assert counts == expected
    assert (PACK[0] in cut.references) == bool(kept)
