"""Entries: what a page holds 256 of, and a manifest one of. A name, and a hint where its blob lies. Pure.

Also the arithmetic of the tree: how many levels a disk needs, which page holds which block (docs/archive-format.md,
"Pages").
"""

import struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from snapd import units
from snapd.archive import layout, names

FANOUT: Final = 256
LARGEST_DISK: Final = 1 << 50
SMALLEST_BLOCK: Final = 64 * units.KIB
LARGEST_BLOCK: Final = 4 * units.MIB

_STRUCT: Final = struct.Struct(f"<{names.LENGTH}s{layout.PACK_ID_LENGTH}sII")
SIZE: Final = _STRUCT.size
PAGE_SIZE: Final = FANOUT * SIZE

DTYPE: Final = np.dtype(
    [("name", "u1", names.LENGTH), ("pack", "u1", layout.PACK_ID_LENGTH), ("offset", "<u4"), ("length", "<u4")]
)
"""An entry as numpy sees it, 56 bytes. Names and ids are rows of bytes: numpy's text types drop zeros at the end."""

Entries = npt.NDArray[np.void]
"""An array of DTYPE."""


class Entry(NamedTuple):
    """A blob's name and the place at which it was put."""

    name: bytes
    pack: bytes
    offset: int
    """In bytes, in the pack."""
    length: int
    """Bytes stored there."""

    def encode(self) -> bytes:
        """Return the 56 bytes of a page."""
        return _STRUCT.pack(*self)

    @property
    def is_nothing(self) -> bool:
        """True if it stands for zeros."""
        return self.name == names.NOTHING


NOTHING: Final = Entry(names.NOTHING, bytes(layout.PACK_ID_LENGTH), 0, 0)
NOTHING_ENCODED: Final = NOTHING.encode()


def decode(data: bytes | bytearray | memoryview, position: int = 0) -> Entry:
    """Return the entry at a position (counted in entries) of a page."""
    return Entry(*_STRUCT.unpack_from(data, position * SIZE))


def as_array(page: bytes | bytearray) -> Entries:
    """Return a page's entries as an array of DTYPE that shares its memory."""
    return np.frombuffer(page, DTYPE)


def block_count(size_bytes: int, block_size: int) -> int:
    """Return how many blocks a disk has."""
    return units.divide_up(size_bytes, block_size)


def block_length(number: int, size_bytes: int, block_size: int) -> int:
    """Return the bytes of a block: fewer than block_size only in the last one."""
    return min(block_size, size_bytes - number * block_size)


def depth_for(blocks: int) -> int:
    """Return how many levels of pages a disk of so many blocks has."""
    depth = 1
    while FANOUT**depth < blocks:
        depth += 1
    return depth
