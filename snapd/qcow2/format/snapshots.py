"""Internal snapshots: the snapshot table, every entry judged, and the header as which one of them is read.

Bounded in time and memory whatever the table claims. Reads no L1 table. Source: qcow2 specification, "Snapshots".
"""

import dataclasses
import os
from collections.abc import Sequence

from snapd import errors, units
from snapd.qcow2.format import header, layout


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An internal snapshot, as its entry describes it."""

    id: str
    """Unique in QEMU's images. Bytes that aren't UTF-8 come as escapes, here and in the name."""
    name: str
    l1_offset: int
    """Bytes."""
    l1_size: int
    """Entries."""
    size_bytes: int
    """Of the disk at that time."""
    vm_state_bytes: int
    """0 for a snapshot of the disk alone."""
    date_s: int
    """Seconds since 1970."""
    date_ns: int
    """Nanoseconds within that second."""
    vm_clock_ns: int
    """How long the guest had been running."""
    icount: int | None
    """Instructions that the guest had executed, if it was recorded."""
    entry_bytes: int
    """Of the entry, with the padding behind it."""


def table_bytes(snapshots: Sequence[Snapshot]) -> int:
    """Return the length of the table that holds exactly these."""
    return sum(snapshot.entry_bytes for snapshot in snapshots)


def read(fd: int, parsed: header.Header, file_size: int) -> tuple[Snapshot, ...]:
    """Return the snapshots of an open image of file_size bytes.

    Raises errors.ImageRefused for a table that can't be or is larger than QEMU allows.
    """
    found: list[Snapshot] = []
    at, end = parsed.snapshots_offset, min(file_size, parsed.snapshots_offset + layout.SNAPSHOT_TABLE_BYTES_MAX)
    for number in range(parsed.snapshot_count):
        snapshot = _read_entry(fd, parsed, at, end, f"internal snapshot {number}")
        _check(snapshot, parsed, file_size, f"internal snapshot {number}")
        found.append(snapshot)
        at += snapshot.entry_bytes
    return tuple(found)


def _read_entry(fd: int, parsed: header.Header, at: int, end: int, what: str) -> Snapshot:
    """Return the entry at offset `at` of a table that reaches to `end` at most."""
    size = layout.SNAPSHOT.size
    _require(at <= end - size, f"the table of {what} reaches past the end of the file or {_TABLE_LIMIT}")
    fields = layout.SNAPSHOT.unpack(os.pread(fd, size, at))
    l1_offset, l1_size, id_length, name_length, date_s, date_ns, vm_clock_ns, vm_state, extra_length = fields
    _require(extra_length <= layout.SNAPSHOT_EXTRA_BYTES_MAX, f"{what} has {extra_length} bytes of extra data")
    length = size + extra_length + id_length + name_length
    _require(at <= end - length, f"{what} reaches past the end of the file or {_TABLE_LIMIT}")
    rest = os.pread(fd, length - size, at + size)
    # Extra data is known as far as its length says; what newer programs append is passed over.
    extra = [int.from_bytes(rest[low : low + 8]) for low in range(0, min(extra_length, 24) - 7, 8)]
    icount = extra[2] if len(extra) > 2 else _NO_ICOUNT
    return Snapshot(
        id=_text(rest[extra_length : extra_length + id_length]),
        name=_text(rest[extra_length + id_length :]),
        l1_offset=l1_offset,
        l1_size=l1_size,
        size_bytes=extra[1] if len(extra) > 1 else parsed.size_bytes,
        vm_state_bytes=extra[0] if extra else vm_state,
        date_s=date_s,
        date_ns=date_ns,
        vm_clock_ns=vm_clock_ns,
        icount=None if icount == _NO_ICOUNT else icount,
        entry_bytes=units.round_up(length, 8),
    )


_NO_ICOUNT = (1 << 64) - 1
_TABLE_LIMIT = units.format_size(layout.SNAPSHOT_TABLE_BYTES_MAX)


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def _check(snapshot: Snapshot, parsed: header.Header, file_size: int, what: str) -> None:
    """Check that a snapshot's L1 table is possible, inside the file, and apart from the image's own tables."""
    l1_bytes = snapshot.l1_size * layout.ENTRY_SIZE
    _require(l1_bytes <= layout.L1_BYTES_MAX, f"{what} has an L1 table of {snapshot.l1_size} entries")
    _require(snapshot.size_bytes % units.SECTOR == 0, f"{what} is a disk of {snapshot.size_bytes} bytes")
    needed = header.l1_entries_for(snapshot.size_bytes, parsed.cluster_bits, parsed.entry_size)
    _require(
        needed <= snapshot.l1_size, f"{what} is a disk of {snapshot.size_bytes} bytes, more than its L1 table maps"
    )
    if l1_bytes == 0:
        return
    start = snapshot.l1_offset
    _require(start % parsed.cluster_size == 0, f"{what} has a misaligned L1 table")
    _require(start <= file_size - l1_bytes, f"{what} has an L1 table that reaches past the end of the file")
    for other, offset, length in (
        ("the header", 0, parsed.cluster_size),
        ("the L1 table", parsed.l1_offset, parsed.l1_size * layout.ENTRY_SIZE),
        ("the refcount table", parsed.refcount_table_offset, parsed.refcount_table_clusters * parsed.cluster_size),
        ("the snapshot table", parsed.snapshots_offset, layout.SNAPSHOT.size),
    ):
        apart = start + l1_bytes <= offset or offset + length <= start
        _require(apart, f"{what} has an L1 table that overlaps {other}")


def find(snapshots: Sequence[Snapshot], id_or_name: str) -> Snapshot:
    """Return the snapshot of that id, or else the first of that name. Raises errors.NotFound."""
    for snapshot in snapshots:
        if snapshot.id == id_or_name:
            return snapshot
    for snapshot in snapshots:
        if snapshot.name == id_or_name:
            return snapshot
    raise errors.NotFound(resource_type="internal snapshot", name=id_or_name)


def header_of(snapshot: Snapshot, parsed: header.Header) -> header.Header:
    """Return the header that the image had if the snapshot were its disk."""
    return dataclasses.replace(
        parsed, size_bytes=snapshot.size_bytes, l1_offset=snapshot.l1_offset, l1_size=snapshot.l1_size
    )


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise errors.ImageRefused(problem=problem)
