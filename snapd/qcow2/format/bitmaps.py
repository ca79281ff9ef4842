"""Persistent dirty bitmaps: which there are. Their contents are QEMU's business.

Bounded in time and memory whatever the directory claims. Source: qcow2 specification, "Bitmaps".
"""

import dataclasses
import os

from snapd import errors, units
from snapd.qcow2.format import layout
from snapd.qcow2.format.header import Header

_IN_USE = 1 << 0
_AUTO = 1 << 1
_EXTRA_IS_COMPATIBLE = 1 << 2
_FLAGS = _IN_USE | _AUTO | _EXTRA_IS_COMPATIBLE
_DIRTY_TRACKING = 1
_GRANULARITY_BITS_MAX = 63


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bitmap:
    """A persistent bitmap, as its directory entry describes it."""

    name: str
    """Unique. Bytes that aren't UTF-8 come as escapes."""
    kind: int
    """1 is a dirty tracking bitmap, the only type there is."""
    granularity: int
    """Bytes of the disk for each bit, a power of two."""
    in_use: bool
    """It was not saved properly: its contents mean nothing."""
    auto: bool
    """It has to be kept up to date by whoever writes the disk."""
    table_offset: int
    """Bytes."""
    table_entries: int
    extra: bytes
    """Data of a kind that nobody has defined yet."""


def read(fd: int, header: Header, file_size: int) -> tuple[Bitmap, ...]:
    """Return the bitmaps of an open image of file_size bytes; none if a program that doesn't know them wrote it since.

    Raises errors.ImageRefused for a directory that can't be.
    """
    count, offset, length = header.bitmaps
    directory = os.pread(fd, length, offset) if count else b""
    found: dict[str, Bitmap] = {}
    at = 0
    for number in range(count):
        bitmap, size = _parse(directory, at, f"bitmap {number}")
        _check(bitmap, header, file_size, f"bitmap {number}")
        _require(bitmap.name not in found, f"bitmap {number} has the name of another")
        found[bitmap.name] = bitmap
        at += size
    _require(at == length == len(directory), f"a bitmap directory of {length} bytes has entries of {at}")
    return tuple(found.values())


def _parse(directory: bytes, at: int, what: str) -> tuple[Bitmap, int]:
    """Return the bitmap whose entry begins at `at`, and the entry's length."""
    entry = layout.BITMAP_ENTRY
    _require(at <= len(directory) - entry.size, f"{what} reaches past the end of the directory")
    table_offset, entries, flags, kind, bits, name_length, extra_length = entry.unpack_from(directory, at)
    size = units.round_up(entry.size + extra_length + name_length, 8)
    _require(size <= len(directory) - at, f"{what} reaches past the end of the directory")
    _require(not flags & ~_FLAGS, f"{what} has unknown flags {flags:#x}")
    _require(kind == _DIRTY_TRACKING, f"{what} is of the unknown type {kind}")
    _require(bits <= _GRANULARITY_BITS_MAX, f"{what} has a granularity of 2**{bits} bytes")
    _require(1 <= name_length <= layout.BITMAP_NAME_MAX, f"{what} has a name of {name_length} bytes")
    # Only such extra data may be passed over by who doesn't know it, and nobody does.
    _require(not extra_length or bool(flags & _EXTRA_IS_COMPATIBLE), f"{what} has unknown extra data")
    extra_at = at + entry.size
    name_at = extra_at + extra_length
    bitmap = Bitmap(
        name=directory[name_at : name_at + name_length].decode(errors="backslashreplace"),
        kind=kind,
        granularity=1 << bits,
        in_use=bool(flags & _IN_USE),
        auto=bool(flags & _AUTO),
        table_offset=table_offset,
        table_entries=entries,
        extra=directory[extra_at:name_at],
    )
    return bitmap, size


def _check(bitmap: Bitmap, header: Header, file_size: int, what: str) -> None:
    table_bytes = bitmap.table_entries * layout.ENTRY_SIZE
    _require(
        0 < bitmap.table_entries <= layout.BITMAP_TABLE_ENTRIES_MAX, f"{what} has {bitmap.table_entries} table entries"
    )
    _require(
        bitmap.table_offset % header.cluster_size == 0 and bitmap.table_offset >= header.cluster_size,
        f"{what} has a misaligned table",
    )
    _require(
        bitmap.table_offset <= file_size - table_bytes, f"{what} has a table that reaches past the end of the file"
    )
    covered = (bitmap.table_entries * header.cluster_size * 8) * bitmap.granularity
    # One that wasn't saved properly may be of the size that the disk had before.
    _require(bitmap.in_use or covered >= header.size_bytes, f"{what} is too short for the disk")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise errors.ImageRefused(problem=problem)
