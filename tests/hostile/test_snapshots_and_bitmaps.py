"""Snapshot tables and bitmap directories that lie.

What a snapshot refers to is metadata that no data may lie on, so that its table is read before any of the disk is. Only
the list of bitmaps reads bitmaps.

Cases 12 to 18 and 29, as far as the header alone doesn't show them.
"""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from snapd import units
from snapd.qcow2.format import layout
from tests.hostile import surgery, trial
from tests.hostile.surgery import CLUSTER, SIZE, Patient, extension, u32, u64

SNAPSHOTS_AT = 60
AUTOCLEAR_AT = 88

Change = Callable[[Patient], bytes]


def with_snapshots(patient: Patient, table: bytes, count: int = 1) -> None:
    patient.put(SNAPSHOTS_AT, u32(count) + u64(patient.append(table)))


def of(**fields: Any) -> Change:
    """Return a table of one snapshot whose L1 table is a copy of the image's own, unless fields say otherwise."""

    def table(patient: Patient) -> bytes:
        own = patient.append(u64(patient.word(patient.l1)))
        return surgery.snapshot(**{"l1_offset": own, **fields})

    return table


SNAPSHOTS: list[tuple[str, Change, str]] = [
    ("13: table cut short by the file's end", lambda _: b"", "snapshot 0"),
    ("15: L1 table of over 32 MiB", of(l1_size=2**22 + 1), "has an L1 table of 4194305 entries"),
    ("15: L1 table of 2^32 - 1 entries", of(l1_size=2**32 - 1), "has an L1 table of 4294967295 entries"),
    ("15: L1 table misaligned", of(l1_offset=3 * CLUSTER + 8), "misaligned L1 table"),
    ("15: L1 table past the end", of(l1_offset=2**50), "past the end of the file"),
    ("15: L1 table near 2^64", of(l1_offset=2**64 - CLUSTER), "past the end of the file"),
    ("15: L1 table in the header", of(l1_offset=0), "overlaps the header"),
    ("15: L1 table on the refcount table", of(l1_offset=CLUSTER), "overlaps the refcount table"),
    ("15: no L1 table", of(l1_size=0), "more than its L1 table maps"),
    ("16: extra data of 64 KiB", of(extra_length=65_536), "has 65536 bytes of extra data"),
    ("16: extra data of 2^32 - 1 bytes", of(extra_length=2**32 - 1), "has 4294967295 bytes of extra data"),
    ("17: name past the end", of(name_length=65_535), "reaches past the end of the file"),
    ("18: disk of 2^63 bytes", of(size_bytes=2**63), "9223372036854775808 bytes, more than its L1 table maps"),
    ("18: disk of 2^64 - 1 bytes", of(size_bytes=2**64 - 1), "a disk of 18446744073709551615 bytes"),
]


@pytest.mark.parametrize(("table", "problem"), [row[1:] for row in SNAPSHOTS], ids=[row[0] for row in SNAPSHOTS])
def test_an_image_with_a_snapshot_that_cannot_be_is_refused(
    worker: trial.Worker, patient: Patient, table: Change, problem: str
) -> None:
    data = table(patient)
    if data:
        with_snapshots(patient, data)
    else:
        # Enough for what the header claims at the least, but no whole entry.
        patient.put(SNAPSHOTS_AT, u32(1) + u64(patient.append(b"")))
        patient.put(patient.end, surgery.snapshot(l1_offset=patient.l1)[:40])
        patient.put(SNAPSHOTS_AT, u32(1) + u64(units.round_down(patient.end, CLUSTER)))
    worker.expect(patient.path, ["snapshots", "read"], "ImageRefused", problem)
    endings = worker.run(patient.path, "merge", "check", "import")
    assert endings["merge"].error in ("ImageRefused", "Corrupt"), endings
    assert endings["check"].error == "ImageRefused" or endings["check"].result != "0 bad, 0 leaks", endings
    assert endings["import"].error == "ImageRefused", endings


def test_13_many_snapshots_cost_what_their_table_is_worth(worker: trial.Worker, patient: Patient) -> None:
    own = patient.append(u64(patient.word(patient.l1)))
    with_snapshots(patient, surgery.snapshot(l1_offset=own) * 2_000, count=65_536)
    worker.expect(patient.path, ["snapshots"], "ImageRefused", "")
    with_snapshots(patient, surgery.snapshot(l1_offset=own) * 2_000, count=2_000)
    assert worker.run(patient.path, "snapshots")["snapshots"].result == "2000"


def bitmap(
    *, table: int, entries: int = 1, flags: int = 0, kind: int = 1, bits: int = 16, name: bytes = b"b", extra: int = 0
) -> bytes:
    """Return an entry of the bitmap directory."""
    entry = struct.pack(">QIIBBHI", table, entries, flags, kind, bits, len(name), extra) + bytes(min(extra, 64)) + name
    return entry.ljust(units.round_up(len(entry), 8), b"\0")


def with_bitmaps(patient: Patient, *entries: bytes, length: int | None = None) -> None:
    directory = b"".join(entries)
    fields = len(entries), 0, len(directory) if length is None else length, patient.append(directory)
    patient.set_extensions(extension(layout.EXTENSION_BITMAPS, layout.BITMAPS.pack(*fields)))
    patient.put(AUTOCLEAR_AT, u64(layout.AUTOCLEAR_BITMAPS))


BITMAPS: list[tuple[str, dict[str, int | bytes]]] = [
    ("table misaligned", {"table": CLUSTER + 8}),
    ("table past the end", {"table": 2**50}),
    ("table near 2^64", {"table": 2**64 - CLUSTER}),
    ("table of 2^32 - 1 entries", {"entries": 2**32 - 1}),
    ("unknown flags", {"flags": 1 << 31}),
    ("unknown type", {"kind": 7}),
    ("granularity of 2^255", {"bits": 255}),
    ("no name", {"name": b""}),
    ("name of 1,024 bytes", {"name": b"n" * 1024}),
    ("extra data", {"extra": 8}),
    ("extra data past the directory", {"extra": 2**32 - 1, "flags": 4}),
]


@pytest.mark.parametrize("fields", [fields for _, fields in BITMAPS], ids=[name for name, _ in BITMAPS])
def test_29_a_bitmap_that_cannot_be_is_refused_and_the_disk_is_read(
    worker: trial.Worker, patient: Patient, fields: dict[str, Any]
) -> None:
    table = patient.append(u64(0))
    with_bitmaps(patient, bitmap(**{"table": table, **fields}))
    endings = worker.run(patient.path, "read", "bitmaps")
    assert endings["read"].error == ""
    assert endings["bitmaps"].error == "ImageRefused", endings


def test_29_bitmaps_of_one_name_or_in_a_directory_of_another_length_are_refused(
    worker: trial.Worker, patient: Patient
) -> None:
    table = patient.append(u64(0))
    with_bitmaps(patient, bitmap(table=table))
    assert worker.run(patient.path, "bitmaps")["bitmaps"].result == "1"
    with_bitmaps(patient, bitmap(table=table), bitmap(table=table))
    worker.expect(patient.path, ["bitmaps"], "ImageRefused", "the name of another")
    with_bitmaps(patient, bitmap(table=table), length=24)
    worker.expect(patient.path, ["bitmaps"], "ImageRefused", "")
    with_bitmaps(patient, bitmap(table=table), length=4096)
    worker.expect(patient.path, ["bitmaps"], "ImageRefused", "")


def test_a_snapshot_of_the_same_size_is_sound_before_the_operation(worker: trial.Worker, patient: Patient) -> None:
    own = patient.append(u64(patient.word(patient.l1) & ~surgery.COPIED))
    with_snapshots(patient, surgery.snapshot(l1_offset=own, size_bytes=SIZE))
    endings = worker.run(patient.path, "snapshots")
    assert endings["snapshots"] == trial.Ending("", "", "1")
