"""What a disk must hold, sector by sector: what was acknowledged, and what else may be there all the same.

Each sector that is written has a number of its own, repeated through the sector, so that bytes that are torn, old or
in the wrong place are told apart. 0 is a sector of zeros.
"""

import dataclasses
from typing import Final

import numpy as np
import numpy.typing as npt

from snapd import units

Numbers = npt.NDArray[np.uint64]

_WORDS: Final = units.SECTOR // 8
_SECTOR_BITS: Final = 24


class WrongBytes(AssertionError):
    """A read returned what it must not."""


def numbered(write: int, first: int, count: int) -> Numbers:
    """Return the numbers that a write puts into sectors; write 0 is of zeros."""
    if write == 0:
        return np.zeros(count, dtype=np.uint64)
    return (np.uint64(write) << np.uint64(_SECTOR_BITS)) + np.arange(first, first + count, dtype=np.uint64)


def encoded(numbers: Numbers) -> bytes:
    """Return the bytes of sectors."""
    return np.repeat(numbers, _WORDS).tobytes()


@dataclasses.dataclass(slots=True, eq=False)
class Contents:
    """A disk's contents."""

    acknowledged: Numbers
    possible: dict[int, set[int]] = dataclasses.field(default_factory=dict)
    """By sector: what may be there instead."""

    @classmethod
    def empty(cls, sectors: int) -> "Contents":
        """Return those of a disk of zeros."""
        return cls(np.zeros(sectors, dtype=np.uint64))

    @property
    def size_bytes(self) -> int:
        """The disk's size."""
        return len(self.acknowledged) * units.SECTOR

    def copy(self) -> "Contents":
        """Return the same for another disk."""
        return Contents(self.acknowledged.copy(), {sector: set(found) for sector, found in self.possible.items()})

    def attempt(self, first: int, numbers: Numbers) -> None:
        """Somebody began to write."""
        for sector, number in enumerate(numbers.tolist(), first):
            self.possible.setdefault(sector, set()).add(number)

    def acknowledge(self, first: int, numbers: Numbers) -> None:
        """Somebody was told that it is written. Nobody else was writing there."""
        self.acknowledged[first : first + len(numbers)] = numbers
        for sector in range(first, first + len(numbers)):
            self.possible.pop(sector, None)

    def difference(self, data: bytes) -> str:
        """Return what is wrong with the bytes of a whole disk, or ''."""
        if len(data) != self.size_bytes:
            return f"{len(data)} bytes instead of {self.size_bytes}"
        words = np.frombuffer(data, dtype=np.uint64).reshape(-1, _WORDS)
        torn = np.flatnonzero((words != words[:, :1]).any(axis=1))
        if len(torn):
            return f"sector {torn[0]} is torn"
        for sector in np.flatnonzero(words[:, 0] != self.acknowledged).tolist():
            if int(words[sector, 0]) not in self.possible.get(sector, ()):
                found, wanted = int(words[sector, 0]), int(self.acknowledged[sector])
                return (
                    f"sector {sector} holds write {found >> _SECTOR_BITS} of sector {found % (1 << _SECTOR_BITS)},"
                    f" not write {wanted >> _SECTOR_BITS}"
                )
        return ""

    def settle(self, data: bytes) -> None:
        """Take bytes that were read, and are allowed, as what is there from now on."""
        self.acknowledged = np.frombuffer(data, dtype=np.uint64).reshape(-1, _WORDS)[:, 0].copy()
        self.possible.clear()
