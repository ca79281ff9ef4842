"""A kill or a power cut at any operation of the writer: leaks at most, and what was flushed is there."""

import pathlib
import random
from contextlib import ExitStack
from typing import Any

import pytest

from snapd import fsops, units
from snapd.qcow2.checking import check, repair
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, writer
from tests.interop.qcow2 import power

Qemu = Any  # the fixture's class, which tests can't import

SECTOR = units.SECTOR
SIZE = units.MIB
STEPS = 40


class History:
    """What each sector of the disk may read as: its flushed value, or one that was written since."""

    def __init__(self, content: bytes) -> None:
        self.latest = [content[at : at + SECTOR] for at in range(0, SIZE, SECTOR)]
        self.allowed = [{value} for value in self.latest]

    def change(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), SECTOR):
            value = data[at : at + SECTOR]
            self.latest[(offset + at) // SECTOR] = value
            self.allowed[(offset + at) // SECTOR].add(value)

    def flushed(self) -> None:
        self.allowed = [{value} for value in self.latest]

    def assert_explains(self, content: bytes) -> None:
        for number, allowed in enumerate(self.allowed):
            found = content[number * SECTOR : (number + 1) * SECTOR]
            assert found in allowed, f"sector {number} reads {found[:16]!r}"


class Disk:
    """An image, empty but for what it shows of a backing file, to start each try from."""

    def __init__(self, folder: pathlib.Path, *, overlay: bool, **options: Any) -> None:
        self.path = folder / "disk.qcow2"
        self.stack = ExitStack()
        self.below = None
        if overlay:
            create.create(folder / "bottom.qcow2", size_bytes=SIZE)
            with writer.Writer.open(folder / "bottom.qcow2") as target:
                target.write(0, b"".join(bytes([200 + number % 50]) * SECTOR for number in range(SIZE // SECTOR)))
            self.below = chain.Chain([self.stack.enter_context(image.Image.open(folder / "bottom.qcow2"))])
        create.create(self.path, size_bytes=SIZE, backing_name="bottom.qcow2" if overlay else None, **options)
        self._empty = self.path.read_bytes()

    def reset(self) -> History:
        """Put the image back to what it was at first."""
        self.path.write_bytes(self._empty)
        return History(self.content())

    def run(self, chance: random.Random, history: History) -> None:
        """Change the image at random, with flushes between."""
        with writer.Writer.open(self.path, self.below) as target:
            for step in range(STEPS):
                offset = chance.randrange(0, SIZE, SECTOR)
                length = min(SIZE - offset, chance.randrange(SECTOR, 100 * units.KIB, SECTOR))
                action = chance.random()
                if action < 0.4:
                    data = bytes([step + 1]) * length
                    history.change(offset, data)
                    target.write(offset, data)
                elif action < 0.6:
                    first = units.round_down(offset, target.cluster_size)
                    data = bytes([step + 1]) * min(SIZE - first, units.round_up(length, target.cluster_size))
                    history.change(first, data)
                    target.write_compressed(first, data)
                elif action < 0.8:
                    history.change(offset, bytes(length))
                    target.write_zeroes(offset, length)
                else:
                    target.flush()
                    history.flushed()
        history.flushed()

    def content(self) -> bytes:
        with image.Image.open(self.path) as opened:
            buffer = bytearray(SIZE)
            chain.Chain([opened, *(self.below.images if self.below else ())]).read_into(0, memoryview(buffer))
            return bytes(buffer)


IMAGES = [
    {"cluster_size": 512, "overlay": False},
    {"cluster_size": 4096, "overlay": True},
    {"cluster_size": 512, "overlay": False, "refcount_bits": 1},
    {"cluster_size": 4096, "overlay": False, "refcount_bits": 64},
    {"cluster_size": 4096, "overlay": True, "refcount_bits": 2, "compression": "zstd"},
    {"cluster_size": 16384, "overlay": True, "extended_l2": True},
    {"cluster_size": 65536, "overlay": False, "extended_l2": True, "refcount_bits": 8},
]


@pytest.mark.parametrize("keeps_all", [True, False], ids=["kill", "power-cut"])
@pytest.mark.parametrize("options", IMAGES, ids=lambda options: "-".join(map(str, options.values())))
def test_a_cut_leaves_leaks_at_most_and_everything_flushed(
    tmp_path: pathlib.Path, qemu: Qemu, options: dict[str, Any], keeps_all: bool
) -> None:
    try_cuts(Disk(tmp_path, **options), qemu, seed=1, cuts=6, keeps_all=keeps_all)


@pytest.mark.torture
@pytest.mark.parametrize("keeps_all", [True, False], ids=["kill", "power-cut"])
@pytest.mark.parametrize("options", IMAGES, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("seed", range(2, 6))
def test_cuts_in_many_places_leave_leaks_at_most(
    tmp_path: pathlib.Path, qemu: Qemu, options: dict[str, Any], keeps_all: bool, seed: int
) -> None:
    try_cuts(Disk(tmp_path, **options), qemu, seed=seed, cuts=60, keeps_all=keeps_all)


def try_cuts(disk: Disk, qemu: Qemu, *, seed: int, cuts: int, keeps_all: bool) -> None:
    """Cut one run in some places, and see after each that the image is whole and can be written on."""
    path = disk.path
    watched = power.Power(path, 0, random.Random(seed), keeps_all=True)
    fsops.observe(watched)
    try:
        disk.run(random.Random(seed), disk.reset())
    finally:
        fsops.observe(None)
    strikes = random.Random(seed).sample(range(1, watched.count), min(cuts, watched.count - 1))
    for strike in strikes:
        history = disk.reset()
        fsops.observe(power.Power(path, strike, random.Random(strike), keeps_all=keeps_all))
        try:
            with pytest.raises(power.Cut):
                disk.run(random.Random(seed), history)
        finally:
            fsops.observe(None)
        history.assert_explains(disk.content())
        assert check.check(path).corruptions == 0, strike
        repair.repair_leaks(path)
        assert check.check(path).clean
        assert qemu.check(path).get("corruptions", 0) == 0
        qemu.assert_clean(path)
        history = History(disk.content())
        disk.run(random.Random(strike), history)
        history.assert_explains(disk.content())
        # Refcounts beyond the file's end nobody counts; they are leaks once the file reaches as far.
        assert check.check(path).corruptions == 0
    disk.stack.close()
