"""Sealed documents: JSON objects that carry a checksum of their own bytes (docs/archive-format.md, "Documents").

The checksum is over bytes and not over values, so a reader needs no canonical form of JSON.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from snapd import errors, units
from snapd.archive.backends import backend

Json = Any
"""What json.dumps takes; an alias that refers to itself would say it no better to callers."""

Seal = Callable[[bytes], bytes]
"""Hashes a document's bytes: names.plain or names.keyed with the rest of its arguments bound."""

LARGEST: Final = 64 * units.MIB

_BEFORE: Final = b',"checksum":"'
_AFTER: Final = b'"}'
_TAIL: Final = len(_BEFORE) + 64 + len(_AFTER)


def encode(members: Mapping[str, Json], seal: Seal) -> bytes:
    """Return members as a sealed document. Raises errors.InvalidField if they aren't JSON or are too long."""
    try:
        text = json.dumps(members, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError) as error:
        raise errors.InvalidField(field="metadata", problem=str(error)) from error
    if len(text) + _TAIL > LARGEST:
        raise errors.InvalidField(field="metadata", problem=f"the document would be longer than {LARGEST} bytes")
    body = text.removesuffix(b"}")
    return body + _BEFORE + seal(body).hex().encode("ascii") + _AFTER


def fetch(store: backend.Backend, key: str, what: str) -> bytes:
    """Return an object that is to be a document, of which no more than LARGEST bytes are ever read.

    Raises errors.NotFound, errors.Corrupt, naming `what`, errors.ArchiveUnreachable.
    """
    size_bytes = store.size(key)
    if size_bytes is not None and size_bytes > LARGEST:
        raise errors.Corrupt(what=what, problem=f"it is {size_bytes} bytes long, and no document is")
    return store.get(key)


def decode(what: str, data: bytes, seal: Seal, version: int) -> dict[str, Json]:
    """Return the members of a sealed document. Raises errors.Corrupt, naming `what`, or errors.SchemaTooNew."""
    body, tail = data[:-_TAIL], data[-_TAIL:]
    if len(data) > LARGEST or not body or tail != _BEFORE + seal(body).hex().encode("ascii") + _AFTER:
        raise errors.Corrupt(what=what, problem="its checksum doesn't match")
    try:
        members = json.loads(body + b"}")
    except (ValueError, RecursionError) as error:
        raise errors.Corrupt(what=what, problem=f"it can't be read: {error}") from error
    if not isinstance(members, dict):
        raise errors.Corrupt(what=what, problem="it is no object")
    found = integer(what, members, "version", 1, 1 << 31)
    if found > version:
        raise errors.SchemaTooNew(path=what, found=found, known=version)
    return members


def integer(what: str, members: Mapping[str, Json], name: str, low: int, high: int) -> int:
    """Return a whole number that lies within [low, high]. Raises errors.Corrupt."""
    value = members.get(name)
    if type(value) is not int or not low <= value <= high:
        raise errors.Corrupt(what=what, problem=f"its {name} is {value!r}")
    return value


def expect(what: str, members: Mapping[str, Json], **expected: Json) -> None:
    """Raise errors.Corrupt if a member isn't what it has to be."""
    for name, value in expected.items():
        if members.get(name) != value:
            raise errors.Corrupt(what=what, problem=f"its {name} is {members.get(name)!r}, not {value!r}")


def hexadecimal(what: str, value: Json, length: int) -> bytes:
    """Return `length` bytes that are written in hexadecimal. Raises errors.Corrupt."""
    try:
        data = bytes.fromhex(value)
    except (TypeError, ValueError) as error:
        raise errors.Corrupt(what=what, problem=f"{error}") from error
    if len(data) != length:
        raise errors.Corrupt(what=what, problem=f"{len(data)} bytes are where {length} belong")
    return data


def base64_text(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode("ascii")


def base64_bytes(what: str, value: Json) -> bytes:
    """Return bytes that are written in base64. Raises errors.Corrupt."""
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise errors.Corrupt(what=what, problem=f"{error}") from error
