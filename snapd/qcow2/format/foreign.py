"""Other formats of disks and their signatures: what a file is in truth, whatever its label says.

Never used to choose how a file is read, since a guest can write any signature into its disk: a format is stated. It
only says no to an import whose label is wrong, by name. Source: the formats' own descriptions, and QEMU's probes.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Final

from snapd import units

HEAD_BYTES: Final = 34 * units.KIB
"""How much of a file's beginning it takes: ISO 9660 has its signature behind 32 KiB."""
TAIL_BYTES: Final = 512
"""How much of its end."""

QCOW2: Final = "qcow2"


@dataclasses.dataclass(frozen=True, slots=True)
class _Signature:
    name: str
    offset: int
    """Negative: from the end of the file."""
    magic: bytes


_QCOW = b"QFI\xfb"
_SIGNATURES: Final = (
    _Signature("qcow", 0, _QCOW + (1).to_bytes(4)),
    _Signature("QED", 0, b"QED\0"),
    _Signature("VMDK", 0, b"KDMV"),
    _Signature("VMDK", 0, b"COWD"),
    _Signature("VMDK", 0, 0xCAFEBABE.to_bytes(8, "little")),
    _Signature("VHDX", 0, b"vhdxfile"),
    _Signature("VHD", 0, b"conectix"),
    _Signature("VHD", -512, b"conectix"),
    _Signature("VDI", 64, 0xBEDA107F.to_bytes(4, "little")),
    _Signature("Parallels", 0, b"WithoutFreeSpace"),
    _Signature("Parallels", 0, b"WithouFreSpacExt"),
    _Signature("Bochs", 0, b"Bochs Virtual HD Image"),
    _Signature("cloop", 0, b"#!/bin/sh\n#V2.0 Format\n"),
    _Signature("DMG", -512, b"koly"),
    _Signature("LUKS", 0, b"LUKS\xba\xbe"),
    _Signature("ISO 9660", 32_769, b"CD001"),
)

_VMDK_DESCRIPTOR: Final = re.compile(
    rb"\s*# *disk *descriptorfile|(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]*version *=", re.IGNORECASE
)
"""The text that describes a VMDK disk in several files: comments and empty lines before the version don't matter."""


def look(read: Callable[[int, int], bytes], size_bytes: int) -> str | None:
    """Return what `recognise` says of a file or disk of size_bytes; read(length, offset) returns bytes of it.

    Raises what `read` raises.
    """
    tail = min(TAIL_BYTES, size_bytes)
    return recognise(read(min(HEAD_BYTES, size_bytes), 0), read(tail, size_bytes - tail))


def why_not_qcow2(found: str | None) -> str:
    """Return how to say that a file is no qcow2 image, given what `recognise` says of it."""
    if found is None:
        return "it is no qcow2 image: it doesn't begin with the magic number"
    if QCOW2 in found:
        return f"it has several signatures at once: {found}"
    return f"it is no qcow2 image: it has the signature of {found}"


def recognise(head: bytes, tail: bytes) -> str | None:
    """Return the name of the format whose signature a file bears, or None for what may be a raw disk.

    head is the first HEAD_BYTES of the file and tail its last TAIL_BYTES, or as much as there is. A file with the
    signatures of several formats is named after all of them: "qcow2 and ISO 9660". A qcow image of any version but the
    first is "qcow2", whether or not that version exists.
    """
    found = [each.name for each in _SIGNATURES if _bears(each, head, tail)]
    if head.startswith(_QCOW) and "qcow" not in found:
        found.append(QCOW2)
    if _VMDK_DESCRIPTOR.match(head[: 2 * units.KIB]):
        found.append("VMDK")
    return " and ".join(sorted(set(found), key=str.casefold)) or None


def _bears(signature: _Signature, head: bytes, tail: bytes) -> bool:
    if signature.offset >= 0:
        return head.startswith(signature.magic, signature.offset)
    return len(tail) >= -signature.offset and tail.startswith(signature.magic, len(tail) + signature.offset)
