"""Bytes of tables changed at random: we count what qemu-img check counts, and repair what is wrong with refcounts."""

import json
import os
import pathlib
import random
import shutil
import subprocess
from typing import Any

import pytest

from snapd.qcow2.checking import check, repair, survey
from snapd.qcow2.format import header, layout
from snapd.qcow2.reading import image

Qemu = Any  # the fixture's class, which tests can't import

DAMAGES = 8
"""Of each image."""
SEEDS = range(5)
LONG = range(1000, 1060)
Spot = tuple[str, int, int]
"""Kind of table, offset, length in bytes."""


def make(path: pathlib.Path, qemu: Qemu, chance: random.Random) -> None:
    """Make an image of a random kind with random contents."""
    cluster_size = chance.choice([512, 1024, 4096, 65536])
    bits = chance.choice([1, 2, 4, 8, 16, 16, 32, 64])
    extended = cluster_size == 65536 and chance.random() < 0.5
    options = {"cluster_size": cluster_size, "refcount_bits": bits, "extended_l2": "on" if extended else "off"}
    qemu.create(path, 3 << 20 if cluster_size < 4096 else 20 << 20, **options)
    for _ in range(chance.randrange(1, 6)):
        flag, offset = chance.choice(["-z", "-P 3"]), chance.randrange(0, 2 << 20, 512)
        qemu.io(path, f"write {flag} {offset} {chance.randrange(512, 300_000, 512)}")
    if bits >= 8:
        if chance.random() < 0.5:
            qemu.io(path, f"write -c -P 4 2560k {max(cluster_size, 131_072)}")
        if chance.random() < 0.4:
            qemu.img("bitmap", "--add", path, "bitmap")
        if chance.random() < 0.5:
            qemu.img("snapshot", "-c", "one", path)
            qemu.io(path, "write -P 3 0 70000")


def spots(path: pathlib.Path) -> list[Spot]:
    """Return where an image's tables are."""
    size = path.stat().st_size
    with path.open("rb") as file:
        parsed = header.read(file.fileno(), size)

        def words(offset: int, count: int) -> list[int]:
            data = os.pread(file.fileno(), 8 * count, offset)
            return [int.from_bytes(data[at : at + 8]) for at in range(0, len(data), 8)]

        cluster = parsed.cluster_size
        counted = (size // cluster << parsed.refcount_order) // 8
        found = [("L1", parsed.l1_offset, 8 * parsed.l1_size), ("refcount table", parsed.refcount_table_offset, 64)]
        for entry in filter(None, words(parsed.l1_offset, parsed.l1_size)):
            found.append(("L2", entry & layout.OFFSET_MASK, cluster))
        for number, offset in enumerate(words(parsed.refcount_table_offset, 8)):
            left = counted - number * cluster
            if offset and left > 0:
                found.append(("refcounts", offset, min(cluster, left)))
        if parsed.snapshot_count:
            found.append(("snapshots", parsed.snapshots_offset, 64))
    return found


def damage(path: pathlib.Path, found: list[Spot], chance: random.Random) -> list[str]:
    """Change some bytes of tables: flip bits, clear words, copy words from elsewhere. Returns what was done."""
    done = []
    with path.open("r+b") as file:
        fd = file.fileno()
        for _ in range(chance.randrange(1, 4)):
            kind, offset, length = chance.choice(found)
            at = offset + chance.randrange(length)
            if chance.random() < 0.6:
                data = bytes(byte ^ 1 << chance.randrange(8) for byte in os.pread(fd, 1, at))
            else:
                at -= at % 8
                _, other, other_length = chance.choice(found)
                data = os.pread(fd, 8, other + chance.randrange(other_length) // 8 * 8)
                data = bytes(len(data)) if chance.random() < 0.5 else data
            os.pwrite(fd, data, at)
            done.append(f"{kind} at {at}: {data.hex()}")
    return done


def compare(path: pathlib.Path, what: str) -> None:
    """Require that both count the same, but for what QEMU takes for sound."""
    done = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", "--output=json", path],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    ours = check.check(path)
    if done.returncode == 1:
        assert ours.check_errors, what
        return
    theirs = json.loads(done.stdout)
    with image.Image.open(path) as opened:
        found = survey.survey(opened.fileno(), opened.header, opened.file_size)
    seen = ours.corruptions - found.counts.unseen - found.verdict.unseen
    assert (ours.leaks, seen) == (theirs.get("leaks", 0), theirs.get("corruptions", 0)), what
    assert ours.image_end_bytes == theirs["image-end-offset"], what
    assert ours.total_clusters == theirs["total-clusters"], what


def try_counting(folder: pathlib.Path, qemu: Qemu, seed: int) -> None:
    chance = random.Random(seed)
    path, damaged = folder / "disk.qcow2", folder / "damaged.qcow2"
    make(path, qemu, chance)
    found = spots(path)
    for _ in range(DAMAGES):
        shutil.copy(path, damaged)
        done = damage(damaged, found, chance)
        compare(damaged, f"seed {seed}: {done}")


def try_repairing(folder: pathlib.Path, qemu: Qemu, seed: int) -> None:
    chance = random.Random(seed)
    path, damaged = folder / "disk.qcow2", folder / "damaged.qcow2"
    make(path, qemu, chance)
    found = [spot for spot in spots(path) if spot[0].startswith("refcount")]
    content = qemu.content(path)
    for _ in range(DAMAGES // 2):
        shutil.copy(path, damaged)
        done = damage(damaged, found, chance)
        repair.repair(damaged, leaks_only=False)
        assert check.check(damaged).clean, f"seed {seed}: {done}"
        qemu.assert_clean(damaged)
        assert qemu.content(damaged) == content, f"seed {seed}: {done}"
        qemu.io(damaged, "write -P 9 100k 200k", "read -P 9 100k 200k")
        qemu.assert_clean(damaged)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_damages_are_counted_as_qemu_counts_them(tmp_path: pathlib.Path, qemu: Qemu, seed: int) -> None:
    try_counting(tmp_path, qemu, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_damages_of_refcounts_are_repaired_whole(tmp_path: pathlib.Path, qemu: Qemu, seed: int) -> None:
    try_repairing(tmp_path, qemu, seed)


@pytest.mark.torture
@pytest.mark.parametrize("seed", LONG)
def test_many_random_damages_are_counted_as_qemu_counts_them(tmp_path: pathlib.Path, qemu: Qemu, seed: int) -> None:
    try_counting(tmp_path, qemu, seed)


@pytest.mark.torture
@pytest.mark.parametrize("seed", LONG)
def test_many_random_damages_of_refcounts_are_repaired_whole(tmp_path: pathlib.Path, qemu: Qemu, seed: int) -> None:
    try_repairing(tmp_path, qemu, seed)
