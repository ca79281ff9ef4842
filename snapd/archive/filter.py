"""A Bloom filter over names: which blobs an environment surely doesn't hold, told without asking the index's file.

Nearly every block of a first archive is new, and a look into the file costs as much time as hashing the block: two
threads wait for one connection. 16 bits a name and 4 probes leave one look in 400 to be made in vain (Bloom, 1970).
"""

import struct
from typing import Final

import numpy as np

LARGEST: Final = 1 << 24
"""Names that a filter is made for at most, in 32 MiB of memory: 4 TiB of blocks of 256 KiB."""

_BITS_PER_NAME: Final = 16
_SMALLEST: Final = 1 << 16
_PROBES: Final = 4
_HALVES: Final = struct.Struct("<QQ")
PREFIX: Final = _HALVES.size
"""Bytes of a name that are looked at; they are as good as random."""


class Filter:
    """The filter. One thread adds at a time; any may ask meanwhile."""

    def __init__(self, names: int) -> None:
        """Make room for so many names, and as many again."""
        self.capacity = max(_SMALLEST, 1 << (2 * names).bit_length())
        self.count = 0
        self._mask = self.capacity * _BITS_PER_NAME - 1
        self._bits = bytearray(self.capacity * _BITS_PER_NAME // 8)

    def add(self, prefixes: bytes) -> None:
        """Add the first 16 bytes of names, back to back."""
        halves = np.frombuffer(prefixes, "<u8").reshape(-1, 2)
        self.count += len(halves)
        bits = np.frombuffer(self._bits, np.uint8)
        for probe in range(_PROBES):
            # The sum wraps, as it does in `may_hold` by the mask.
            position = (halves[:, 0] + np.uint64(probe) * halves[:, 1]) & np.uint64(self._mask)
            bit = (np.uint8(1) << (position & np.uint64(7)).astype(np.uint8)).astype(np.uint8)
            np.bitwise_or.at(bits, (position >> np.uint64(3)).astype(np.int64), bit)

    def may_hold(self, name: bytes) -> bool:
        """False if a name was surely not added."""
        first, second = _HALVES.unpack_from(name)
        bits, mask = self._bits, self._mask
        for probe in range(_PROBES):
            position = (first + probe * second) & mask
            if not bits[position >> 3] >> (position & 7) & 1:
                return False
        return True
