"""Names of content: keyed BLAKE3 over the bytes and a kind byte, with the environment's key.

The kind comes last, so that the data is hashed from an aligned start. Without the key nobody can tell whether some
content is in the archive, and a name of one environment means nothing in another.
"""

import enum
import secrets
from typing import Final

from blake3 import blake3

from snapd.archive.backends import backend

LENGTH: Final = 32
"""Bytes of a name, and of a key."""

NOTHING: Final = bytes(LENGTH)
"""The name of what reads as zeros and isn't stored."""


class Kind(enum.IntEnum):
    """What is hashed; its number is the last byte of what is hashed (docs/archive-format.md)."""

    BLOCK = 0x01
    PAGE = 0x02
    BODY = 0x42
    CLAIM = 0x43
    ENVIRONMENT = 0x45
    LEASE = 0x4C
    MANIFEST = 0x4D
    MOVES = 0x4F
    PACK = 0x50
    REPOSITORY = 0x52
    SEAL = 0x53
    TOMBSTONE = 0x54


_SUFFIX: Final = {kind: bytes([kind]) for kind in Kind}


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(LENGTH)


def keyed(key: bytes, kind: Kind, data: backend.Bytes) -> bytes:
    """Return the name, 32 bytes, of data under an environment's key. Releases the GIL."""
    return bytes(blake3(data, key=key).update(_SUFFIX[kind]).digest())


def plain(kind: Kind, data: backend.Bytes) -> bytes:
    """Return the hash, 32 bytes, of what must be readable without a key."""
    return bytes(blake3(data).update(_SUFFIX[kind]).digest())


class Hasher:
    """A keyed hash of bytes that come little by little, followed by a kind byte."""

    def __init__(self, key: bytes, kind: Kind) -> None:
        self._hasher = blake3(key=key)
        self._kind = kind

    def update(self, data: backend.Bytes) -> None:
        """Add bytes. Releases the GIL."""
        self._hasher.update(data)

    def digest(self) -> bytes:
        """Return the hash, 32 bytes, of what was added so far."""
        return bytes(self._hasher.copy().update(_SUFFIX[self._kind]).digest())
