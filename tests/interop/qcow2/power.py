"""Kills and power cuts at any change of a file, as tests simulate them."""

import pathlib
import random

from snapd import fsops, units

SECTOR = units.SECTOR


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
