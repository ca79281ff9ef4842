"""Extended L2 entries: cut into runs, judged and turned into extents, beside a walk over every subcluster."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from snapd import blockmap
from snapd.blockmap import Kind
from snapd.qcow2.format import header, layout
from snapd.qcow2.reading import tables

CLUSTER = 1 << 14
SUBCLUSTER = CLUSTER // layout.SUBCLUSTERS
FILE_SIZE = 64 * CLUSTER
ALLOCATED = (1 << 32) - 1
ZERO = ALLOCATED << 32
HEADER = header.Header(
    version=3,
    cluster_bits=14,
    size_bytes=1 << 30,
    l1_size=1,
    l1_offset=0,
    refcount_table_offset=0,
    refcount_table_clusters=1,
    incompatible=layout.INCOMPATIBLE_EXTENDED_L2,
)
HEADER_ONLY = tables.Metadata(np.array([0], np.int64), np.array([CLUSTER], np.int64))


def words_of(entries: list[tuple[int, int]]) -> blockmap.Int64Array:
    return np.array([word for entry in entries for word in entry], np.uint64).view(np.int64)


def judged(entries: list[tuple[int, int]]) -> tuple[tables.Runs, tables.Judged]:
    found = tables.runs_of(words_of(entries), HEADER, np.empty(0, np.int64))
    return found, tables.judge(found, HEADER, FILE_SIZE, HEADER_ONLY)


def walk(entries: list[tuple[int, int]]) -> list[tuple[int, Kind, int]]:
    """Return (number, kind, host) of each subcluster that has one."""
    seen = []
    for cluster, (entry, bitmap) in enumerate(entries):
        for index in range(layout.SUBCLUSTERS):
            number = cluster * layout.SUBCLUSTERS + index
            if entry & layout.COMPRESSED:
                seen.append((number, Kind.COMPRESSED, entry))
            elif bitmap >> index & 1:
                seen.append((number, Kind.DATA, (entry & layout.OFFSET_MASK) + index * SUBCLUSTER))
            elif bitmap >> 32 + index & 1:
                seen.append((number, Kind.ZERO, -1))
    return seen


def expanded(extents: blockmap.BlockMap) -> list[tuple[int, Kind, int]]:
    """Return the extents as walk returns subclusters."""
    seen = []
    for start, length, kind, host in zip(extents.start, extents.length, extents.kind, extents.host, strict=True):
        assert length % SUBCLUSTER == 0
        for offset in range(0, int(length), SUBCLUSTER):
            moved = offset if kind == Kind.DATA else 0
            seen.append((int(start + offset) // SUBCLUSTER, Kind(kind), int(host) + moved))
    return seen


HALVES = strategies.integers(0, ALLOCATED)
BITMAPS = strategies.one_of(
    strategies.sampled_from([0, ALLOCATED, ZERO]),
    strategies.tuples(HALVES, HALVES).map(lambda pair: pair[0] | (pair[1] & ~pair[0]) << 32),
)
HOSTS = strategies.integers(1, 8).map(lambda number: 1 << 63 | number * CLUSTER)
ENTRIES = strategies.lists(
    strategies.one_of(
        strategies.tuples(HOSTS, BITMAPS),
        strategies.tuples(HOSTS, strategies.just(ALLOCATED)),
        strategies.tuples(strategies.just(0), HALVES.map(lambda half: half << 32)),
        strategies.sampled_from([(0, 0), (0, ZERO), (layout.COMPRESSED | 5 * CLUSTER, 0)]),
    ),
    min_size=1,
    max_size=30,
)


@hypothesis.given(ENTRIES)
def test_extents_are_those_that_a_walk_over_the_subclusters_sees(entries: list[tuple[int, int]]) -> None:
    found, result = judged(entries)
    assert not result.bad.any()
    assert int(found.count.sum()) == len(entries)
    assert expanded(tables.to_block_map(found, result, CLUSTER)) == walk(entries)


def test_like_clusters_in_a_row_are_one_run() -> None:
    row = [(1 << 63 | number * CLUSTER, ALLOCATED) for number in range(1, 5)]
    kept = [(1 << 63 | number * CLUSTER, ZERO) for number in range(5, 8)]
    found, result = judged(row + kept + [(0, ZERO)] * 3 + [(0, 0)] * 2 + [(9 * CLUSTER, 1), (10 * CLUSTER, 1)])
    assert found.count.tolist() == [4, 3, 3, 2, 1, 1]
    assert result.kind.tolist() == [Kind.DATA, Kind.ZERO, Kind.ZERO, 0, tables.MIXED, tables.MIXED]
    assert result.length.tolist() == [4 * CLUSTER, 3 * CLUSTER, 0, 0, CLUSTER, CLUSTER]


@pytest.mark.parametrize(
    ("entry", "bitmap"),
    [
        (CLUSTER, 1 << 32 | 1),
        (CLUSTER, 1 << 63 | 1 << 31),
        (CLUSTER, -1 & (1 << 64) - 1),
        (0, 1),
        (0, ALLOCATED),
        (CLUSTER | layout.ZERO, ALLOCATED),
        (layout.ZERO, ZERO),
        (CLUSTER | 2, ALLOCATED),
        (CLUSTER + SUBCLUSTER, 1),
        (FILE_SIZE, 1),
        (FILE_SIZE, 0),
        (1 << 63, 0),
        (layout.COMPRESSED | CLUSTER, 1),
        (1 << 63 | layout.COMPRESSED | CLUSTER, 0),
    ],
)
def test_impossible_extended_entries_are_bad(entry: int, bitmap: int) -> None:
    _, result = judged([(CLUSTER, ALLOCATED), (entry, bitmap), (0, 0)])
    assert result.bad.sum() == 1
