import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from snapd import errors, units
from snapd.qcow2.format import layout
from snapd.qcow2.reading import chain, image, tables
from snapd.qcow2.writing import create, writer

CLUSTER = 65536
SIZE = 64 * CLUSTER


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return an image with four clusters of data, whose entries the tests break."""
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=SIZE)
    with writer.Writer.open(path) as target:
        target.write(0, b"x" * (4 * CLUSTER))
    return path


def set_entry(path: pathlib.Path, offset: int, entry: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(entry.to_bytes(8))


def l2_offset(path: pathlib.Path) -> int:
    with image.Image.open(path) as opened:
        l1, _ = opened.l1_and_metadata()
        return int(l1[0]) & layout.OFFSET_MASK


def read(path: pathlib.Path) -> bytes:
    with image.Image.open(path) as opened:
        buffer = bytearray(SIZE)
        chain.Chain([opened]).read_into(0, memoryview(buffer))
        return bytes(buffer)


COPIED = 1 << 63


@pytest.mark.parametrize(
    "entry",
    [
        COPIED | (5 * CLUSTER + 512),
        COPIED | (5 * CLUSTER + 512) | layout.ZERO,
        COPIED | (5 * CLUSTER) | 2,
        COPIED | (5 * CLUSTER) | 1 << 56,
        COPIED | (5 * CLUSTER) | 1 << 61,
        COPIED | 1 << 40,
        COPIED | layout.OFFSET_MASK & -CLUSTER,
        COPIED,
        COPIED | CLUSTER,
        COPIED | 2 * CLUSTER,
        COPIED | 3 * CLUSTER,
        COPIED | 4 * CLUSTER,
        COPIED | layout.COMPRESSED | 5 * CLUSTER,
        layout.COMPRESSED | 1 << 50,
        layout.COMPRESSED | 100,
    ],
    ids=hex,
)
def test_an_impossible_l2_entry_is_damage_and_never_zeros(path: pathlib.Path, entry: int) -> None:
    set_entry(path, l2_offset(path) + 8, entry)
    with pytest.raises(errors.Corrupt):
        read(path)
    with pytest.raises(errors.Corrupt):
        writer.Writer.open(path).write(0, b"y" * CLUSTER)


@pytest.mark.parametrize(
    "entry",
    [
        COPIED | 4 * CLUSTER + 512,
        COPIED | 1 << 45,
        4 * CLUSTER | 1 << 57,
        COPIED,
        COPIED | CLUSTER,
        COPIED | 2 * CLUSTER,
    ],
    ids=hex,
)
def test_an_impossible_l1_entry_is_damage(path: pathlib.Path, entry: int) -> None:
    with image.Image.open(path) as opened:
        l1_offset = opened.header.l1_offset
    set_entry(path, l1_offset, entry)
    with pytest.raises(errors.Corrupt):
        read(path)
    with pytest.raises(errors.Corrupt):
        writer.Writer.open(path)


@pytest.mark.parametrize(
    "entry",
    [
        2 * CLUSTER + 512,
        2 * CLUSTER | 1,
        2 * CLUSTER | 1 << 60,
        COPIED | 2 * CLUSTER,
        CLUSTER,
        3 * CLUSTER,
        1 << 45,
        -1,
    ],
    ids=hex,
)
def test_an_impossible_refcount_block_is_damage(path: pathlib.Path, entry: int) -> None:
    with image.Image.open(path) as opened:
        table, l1_offset = opened.header.refcount_table_offset, opened.header.l1_offset
    assert (table, l1_offset) == (CLUSTER, 3 * CLUSTER)
    set_entry(path, table, entry & (1 << 64) - 1)
    with pytest.raises(errors.Corrupt, match="refcount"):
        read(path)


def test_a_file_cut_short_within_its_data_is_damage(path: pathlib.Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 2 * CLUSTER)
    with pytest.raises(errors.Corrupt):
        read(path)


def test_a_last_cluster_that_the_file_cuts_short_goes_on_with_zeros(path: pathlib.Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)
    assert read(path) == (b"x" * (4 * CLUSTER - 1000)).ljust(SIZE, b"\0")


ENTRIES = strategies.lists(
    strategies.one_of(
        strategies.sampled_from([0, layout.ZERO]),
        strategies.integers(1, 6).map(lambda number: layout.COPIED | number * CLUSTER),
        strategies.integers(1, 6).map(lambda number: number * CLUSTER),
        strategies.integers(1, 3).map(lambda number: layout.COPIED | layout.ZERO | number * CLUSTER),
        strategies.integers(1, 3).map(lambda number: layout.COMPRESSED | number * CLUSTER),
    ),
    min_size=1,
    max_size=40,
)


@hypothesis.given(ENTRIES, strategies.lists(strategies.integers(1, 39), unique=True).map(sorted))
def test_runs_are_cut_as_a_walk_over_the_entries_would(entries: list[int], starts: list[int]) -> None:
    starts = [start for start in starts if start < len(entries)]
    expected = [0]
    for position in range(1, len(entries)):
        before, entry = entries[position - 1], entries[position]
        empty = before in (0, layout.ZERO)
        step = 0 if empty else CLUSTER
        follows = entry - before == step and not before & layout.COMPRESSED
        if position in starts or not follows:
            expected.append(position)
    heads = tables.cut(np.array(entries, np.int64), CLUSTER, np.array(starts, np.int64))
    assert heads.tolist() == expected


def test_metadata_meets_ranges_that_touch_any_of_it() -> None:
    known = tables.Metadata(np.array([0, 300, 500]), np.array([100, 400, 600]))
    start = np.array([0, 99, 100, 250, 250, 399, 400, 450, 600, 0])
    length = np.array([1, 1, 200, 50, 51, 1, 100, 100, 1000, 1000])
    assert known.meets(start, length).tolist() == [True, True, False, False, True, True, False, True, False, True]


def test_damage_elsewhere_keeps_nobody_from_reading_what_is_sound(path: pathlib.Path) -> None:
    set_entry(path, l2_offset(path) + 8, COPIED | 1 << 40)
    with image.Image.open(path) as opened:
        view = chain.Chain([opened])
        buffer = bytearray(CLUSTER)
        for cluster in (0, 2, 40):
            view.read_into(cluster * CLUSTER, memoryview(buffer))
            assert buffer == (b"x" if cluster < 4 else b"\0") * CLUSTER
        with pytest.raises(errors.Corrupt, match="of cluster 1"):
            view.read_into(CLUSTER, memoryview(buffer))


def test_a_small_window_reads_only_its_entries(path: pathlib.Path) -> None:
    with image.Image.open(path) as opened:
        part = opened.block_map(CLUSTER + 512, CLUSTER)
        whole = opened.block_map(0, units.TIB)
    assert part.start.tolist() == [CLUSTER + 512]
    assert part.length.tolist() == [CLUSTER]
    assert part.host.tolist() == [int(whole.host[0]) + CLUSTER + 512]
    assert whole.length.tolist() == [4 * CLUSTER]
