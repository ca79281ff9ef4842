"""Repairs: what they mend, what they leave alone, and kills and power cuts at each of their operations."""

import os
import pathlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from snapd import errors, fsops, units
from snapd.qcow2.checking import check, repair, survey
from snapd.qcow2.format import header, layout
from snapd.qcow2.reading import image
from tests.interop.qcow2 import power

Qemu = Any  # the fixture's class, which tests can't import

CLUSTER = 4096
SIZE = 2 * units.MIB
CUTS = 8
"""Of each repair; it has some ten operations."""
SEED = 7


def words(path: pathlib.Path, offset: int, count: int) -> list[int]:
    with path.open("rb") as file:
        data = os.pread(file.fileno(), 8 * count, offset)
    return [int.from_bytes(data[at : at + 8], signed=True) for at in range(0, len(data), 8)]


def put(path: pathlib.Path, offset: int, *values: int, length: int = 8) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"".join(value.to_bytes(length, signed=value < 0) for value in values))


def parsed(path: pathlib.Path) -> header.Header:
    with image.Image.open(path) as opened:
        return opened.header


def block(path: pathlib.Path) -> int:
    return words(path, parsed(path).refcount_table_offset, 1)[0]


def l2(path: pathlib.Path) -> int:
    return words(path, parsed(path).l1_offset, 1)[0] & layout.OFFSET_MASK


def lose_refcounts(path: pathlib.Path) -> None:
    """Clear the refcounts of many clusters, the header's and the tables' among them."""
    put(path, block(path), *([0] * 64), length=2)


def lose_the_block(path: pathlib.Path) -> None:
    put(path, parsed(path).refcount_table_offset, 0)


def misplace_the_block(path: pathlib.Path) -> None:
    put(path, parsed(path).refcount_table_offset, block(path) + 512)


def raise_refcounts(path: pathlib.Path) -> None:
    put(path, block(path) + 2 * 20, *([9] * 50), length=2)


def turn_flags(path: pathlib.Path) -> None:
    """Clear the COPIED flags that are set and set those that aren't."""
    table = l2(path)
    for at, entry in enumerate(words(path, table, CLUSTER // 8)):
        if entry & layout.OFFSET_MASK and not entry & layout.COMPRESSED:
            put(path, table + 8 * at, entry ^ layout.COPIED)
    l1 = parsed(path).l1_offset
    put(path, l1, words(path, l1, 1)[0] ^ layout.COPIED)


def share_a_cluster(path: pathlib.Path) -> None:
    """Have two guest clusters be one, each of which claims it for itself."""
    entry = words(path, l2(path), 1)[0]
    put(path, l2(path) + 8, entry)


DAMAGES: list[Callable[[pathlib.Path], None]] = [
    lose_refcounts,
    lose_the_block,
    misplace_the_block,
    raise_refcounts,
    turn_flags,
    share_a_cluster,
]


@pytest.fixture
def original(tmp_path: pathlib.Path, qemu: Qemu) -> bytes:
    """Return an image with data, compressed and zero clusters, some of which a snapshot shares."""
    path = tmp_path / "original.qcow2"
    qemu.create(path, SIZE, cluster_size=CLUSTER)
    qemu.io(path, "write -P 1 0 300k", "write -z 100k 20k", "write -c -P 2 1M 64k")
    qemu.img("snapshot", "-c", "one", path)
    qemu.io(path, "write -P 3 50k 100k", "write -P 4 500k 40k")
    return path.read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_with_refcounts_and_flags_is_mended(
    tmp_path: pathlib.Path, qemu: Qemu, original: bytes, damage: Callable[[pathlib.Path], None]
) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(original)
    damage(path)
    before, content = check.check(path), qemu.content(path)
    assert not before.clean
    fixed = repair.repair(path, leaks_only=False)
    assert fixed == repair.RepairReport(before.leaks, before.corruptions)
    assert check.check(path).clean
    qemu.assert_clean(path)
    assert qemu.content(path) == content
    assert repair.repair(path, leaks_only=False) == repair.RepairReport(0, 0)
    qemu.img("snapshot", "-a", "one", path)
    qemu.assert_clean(path)


@pytest.mark.parametrize("keeps_all", [True, False], ids=["kill", "power-cut"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_cut_during_a_repair_makes_nothing_worse(
    tmp_path: pathlib.Path, qemu: Qemu, original: bytes, damage: Callable[[pathlib.Path], None], keeps_all: bool
) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(original)
    damage(path)
    damaged, content, before = path.read_bytes(), qemu.content(path), verdict(path)
    watched = power.Power(path, 0, random.Random(0), keeps_all=True)
    run_observed(path, watched)
    for strike in random.Random(SEED).sample(range(2, watched.count + 1), min(CUTS, watched.count - 1)):
        path.write_bytes(damaged)
        cut = power.Power(path, strike, random.Random(strike), keeps_all=keeps_all)
        with pytest.raises(power.Cut):
            run_observed(path, cut)
        after = verdict(path)
        assert after.free <= before.free, strike
        assert after.corruptions - after.flags <= before.corruptions - before.flags, strike
        assert bool(after.check_errors) <= bool(before.check_errors), strike
        assert qemu.content(path) == content, strike
        repair.repair(path, leaks_only=False)
        assert check.check(path).clean, strike
    qemu.assert_clean(path)


def run_observed(path: pathlib.Path, observer: power.Power) -> None:
    fsops.observe(observer)
    try:
        repair.repair(path, leaks_only=False)
    finally:
        fsops.observe(None)


def verdict(path: pathlib.Path) -> Any:
    with image.Image.open(path) as opened:
        return survey.survey(opened.fileno(), opened.header, opened.file_size).verdict


@pytest.mark.parametrize(
    "entry",
    [1 << 40 | layout.COPIED, 5 * CLUSTER + 512 | layout.COPIED, 1 << 57],
    ids=["past-the-end", "misaligned", "reserved"],
)
def test_an_impossible_entry_stays_and_what_it_may_have_meant_is_kept(
    tmp_path: pathlib.Path, qemu: Qemu, original: bytes, entry: int
) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(original)
    meant = words(path, l2(path), 1)[0] & layout.OFFSET_MASK
    put(path, l2(path), entry)
    lose = block(path) + 2 * (l2(path) // CLUSTER)
    put(path, lose, 0, length=2)
    repair.repair(path, leaks_only=False)
    assert words(path, l2(path), 1)[0] & ~layout.COPIED == entry & ~layout.COPIED
    assert check.check(path).corruptions
    with image.Image.open(path) as opened:
        table = words(path, opened.header.refcount_table_offset, 1)[0]
    with path.open("rb") as file:
        assert int.from_bytes(os.pread(file.fileno(), 2, table + 2 * (meant // CLUSTER))) >= 1
    # Nothing else is wrong with it any more: with the entry given up, it is sound but for the leaks.
    put(path, l2(path), 0)
    assert qemu.check(path).get("corruptions", 0) == 0


def test_entries_and_refcounts_that_are_both_damaged_are_left_alone(tmp_path: pathlib.Path, original: bytes) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(original)
    put(path, l2(path), 1 << 40 | layout.COPIED)
    misplace_the_block(path)
    damaged = path.read_bytes()
    with pytest.raises(errors.Corrupt, match="both what refers"):
        repair.repair(path, leaks_only=False)
    assert path.read_bytes() == damaged


def test_leaks_alone_are_lowered_in_their_place(tmp_path: pathlib.Path, qemu: Qemu, original: bytes) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(original)
    end = len(original) // CLUSTER
    put(path, block(path) + 2 * end, 1, 7, 1, length=2)
    with path.open("r+b") as file:
        file.truncate((end + 3) * CLUSTER)
    assert qemu.check(path)["leaks"] == 3
    assert repair.repair(path, leaks_only=True) == repair.RepairReport(3, 0)
    assert path.stat().st_size == (end + 3) * CLUSTER
    qemu.assert_clean(path)


def test_more_references_than_the_refcounts_can_hold_are_refused(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, cluster_size=CLUSTER, refcount_bits=1)
    qemu.io(path, "write -P 1 0 64k")
    share_a_cluster(path)
    assert check.check(path).corruptions == qemu.check(path)["corruptions"]
    with pytest.raises(errors.Corrupt, match="more references than 1 bits count"):
        repair.repair(path, leaks_only=False)


def test_a_file_that_is_marked_corrupt_is_repaired_and_loses_the_mark(
    tmp_path: pathlib.Path, qemu: Qemu, original: bytes
) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(original)
    lose_refcounts(path)
    put(path, 72, layout.INCOMPATIBLE_CORRUPT | layout.INCOMPATIBLE_DIRTY)
    repair.repair(path, leaks_only=False)
    assert parsed(path).incompatible == 0
    qemu.io(path, "write -P 9 0 1M", "read -P 9 0 1M")
    qemu.assert_clean(path)
