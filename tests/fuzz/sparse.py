"""The form in which the fuzzer keeps files: a length and what isn't zero, so that an image takes a few hundred bytes.

    length of the file    4 bytes, big-endian, taken modulo LONGEST + 1
    pieces                offset (4 bytes, taken modulo the length), count (2 bytes), the bytes

Every sequence of bytes is a file: what doesn't fit is cut off.
"""

import pathlib
import struct
from collections.abc import Iterator

import numpy as np

LONGEST = 1 << 20
"""Bytes of the longest file: small enough that whatever takes long took it without need."""

_LENGTH = struct.Struct(">I")
_PIECE = struct.Struct(">IH")
_PIECE_MAX = (1 << 16) - 1
_GAP = 16
"""Zeros in a row that are left out."""


def unpack(data: bytes) -> bytearray:
    """Return the file that data says."""
    length = _LENGTH.unpack(data[:4].ljust(4, b"\0"))[0] % (LONGEST + 1)
    file = bytearray(length)
    for offset, piece in _pieces(data):
        at = offset % length if length else 0
        kept = piece[: length - at]
        file[at : at + len(kept)] = kept
    return file


def _pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = _LENGTH.size
    while at + _PIECE.size <= len(data):
        offset, count = _PIECE.unpack_from(data, at)
        at += _PIECE.size
        yield offset, data[at : at + count]
        at += count


def pack(file: bytes | bytearray) -> bytes:
    """Return what `unpack` makes the file of again; it is up to LONGEST bytes long."""
    used = np.flatnonzero(np.frombuffer(file, np.uint8))
    breaks = np.flatnonzero(np.diff(used) > _GAP)
    starts = [] if len(used) == 0 else used[np.concatenate(([0], breaks + 1))].tolist()
    ends = [] if len(used) == 0 else (used[np.concatenate((breaks, [len(used) - 1]))] + 1).tolist()
    parts = [_LENGTH.pack(len(file))]
    for start, end in zip(starts, ends, strict=True):
        for at in range(start, end, _PIECE_MAX):
            piece = file[at : min(end, at + _PIECE_MAX)]
            parts += [_PIECE.pack(at, len(piece)), bytes(piece)]
    return b"".join(parts)


def write(path: pathlib.Path, file: bytes | bytearray) -> None:
    """Make path that file, with holes where it is zero, whatever was there before."""
    data = pack(file)
    with path.open("wb") as target:
        target.truncate(len(file))
        for offset, piece in _pieces(data):
            target.seek(offset)
            target.write(piece)
