"""A kill or a power cut at any operation of the writer: leaks at most, and what was flushed is there."""

import pathlib
import random
from typing import Any

import pytest

from snapd import fsops, units
from snapd.qcow2 import chain, check, create, image, repair, writer

Qemu = Any  # the fixture's class, which tests can't import

SECTOR = units.SECTOR
SIZE = units.MIB
STEPS = 40


class Cut(BaseException):
    """The power is gone. Not an Exception: nothing may catch it on the way."""


class Power:
    """Observes a file's changes; when it goes, keeps what was synced and any of the sectors written since."""

    def __init__(self, path: pathlib.Path, strike: int, chance: random.Random, *, keeps_all: bool) -> None:
        self.count = 0
        self._path = path
        self._strike = strike
        self._chance = chance
        self._keeps_all = keeps_all
        self._durable = path.read_bytes()
        self._unsynced: list[tuple[int, int]] = []
        self._syncing = False

    def __call__(self, operation: fsops.Operation) -> None:
        self.count += 1
        if self._syncing:
            self._durable, self._unsynced, self._syncing = self._path.read_bytes(), [], False
        if self.count == self._strike:
            self._cut()
            raise Cut
        if operation.name in ("fsync", "fdatasync"):
            self._syncing = True
        elif operation.length:
            self._unsynced.append((operation.offset, operation.length))

    def _cut(self) -> None:
        if self._keeps_all:
            return
        now = self._path.read_bytes()
        left = bytearray(self._durable)
        if self._chance.random() < 0.5:
            left.extend(bytes(len(now) - len(left)))
        for offset, length in self._unsynced:
            start = offset - offset % SECTOR
            for at in range(start, min(offset + length, len(left)), SECTOR):
                if self._chance.random() < 0.5:
                    left[at : at + SECTOR] = now[at : at + SECTOR]
        self._path.write_bytes(left)


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


def run(path: pathlib.Path, chance: random.Random, history: History) -> None:
    """Change an image at random, with flushes between."""
    with writer.Writer.open(path) as target:
        for step in range(STEPS):
            offset = chance.randrange(0, SIZE, SECTOR)
            length = min(SIZE - offset, chance.randrange(SECTOR, 100 * units.KIB, SECTOR))
            action = chance.random()
            if action < 0.55:
                data = bytes([step + 1]) * length
                history.change(offset, data)
                target.write(offset, data)
            elif action < 0.8:
                history.change(offset, bytes(length))
                target.write_zeroes(offset, length)
            else:
                target.flush()
                history.flushed()
    history.flushed()


def content(path: pathlib.Path) -> bytes:
    with image.Image.open(path) as opened:
        buffer = bytearray(SIZE)
        chain.Chain([opened]).read_into(0, memoryview(buffer))
        return bytes(buffer)


@pytest.mark.parametrize("keeps_all", [True, False], ids=["kill", "power-cut"])
@pytest.mark.parametrize("cluster_size", [512, 4096])
@pytest.mark.parametrize("seed", range(2))
def test_a_cut_leaves_leaks_at_most_and_everything_flushed(
    tmp_path: pathlib.Path, qemu: Qemu, cluster_size: int, keeps_all: bool, seed: int
) -> None:
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=SIZE, cluster_size=cluster_size)
    empty = path.read_bytes()
    power = Power(path, 0, random.Random(seed), keeps_all=True)
    fsops.observe(power)
    try:
        run(path, random.Random(seed), History(bytes(SIZE)))
    finally:
        fsops.observe(None)
    strikes = random.Random(seed).sample(range(1, power.count), 10)
    for strike in strikes:
        path.write_bytes(empty)
        history = History(bytes(SIZE))
        fsops.observe(Power(path, strike, random.Random(strike), keeps_all=keeps_all))
        try:
            with pytest.raises(Cut):
                run(path, random.Random(seed), history)
        finally:
            fsops.observe(None)
        history.assert_explains(content(path))
        assert check.check(path).corruptions == 0, strike
        repair.repair_leaks(path)
        assert check.check(path).clean
        assert qemu.check(path).get("corruptions", 0) == 0
        qemu.assert_clean(path)
        history = History(content(path))
        run(path, random.Random(strike), history)
        history.assert_explains(content(path))
        assert check.check(path).clean
