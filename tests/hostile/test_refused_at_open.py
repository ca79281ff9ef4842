"""Headers that lie: whatever is done with such an image, it is refused at once, by one cluster's reading.

Cases 1 to 36, but those of them that only an import refuses or that lie in the snapshot table.
"""

import dataclasses
import os
import struct
from collections.abc import Callable

import pytest

from snapd import units
from snapd.qcow2.format import layout
from snapd.qcow2.writing import create, writer
from tests.hostile import actions, trial
from tests.hostile.surgery import CLUSTER, SIZE, Patient, distinct_extensions, extension, u32, u64

FEATURES_AT = 72
AUTOCLEAR_AT = 88


@dataclasses.dataclass(frozen=True)
class Case:
    """A change to a sound image, and why it is refused then."""

    number: int
    name: str
    change: Callable[[Patient], object]
    refusal: str
    """Part of the message, as it stands there."""


def put(offset: int, data: bytes) -> Callable[[Patient], object]:
    return lambda patient: patient.put(offset, data)


def cut(length: int) -> Callable[[Patient], object]:
    return lambda patient: os.truncate(patient.path, length)


def with_extensions(*data: bytes, features: bytes = b"") -> Callable[[Patient], object]:
    def change(patient: Patient) -> None:
        patient.set_extensions(*data)
        patient.put(FEATURES_AT, features)

    return change


def with_bitmaps(count: int, size: int, offset: int, reserved: int = 0) -> Callable[[Patient], object]:
    def change(patient: Patient) -> None:
        patient.set_extensions(extension(layout.EXTENSION_BITMAPS, layout.BITMAPS.pack(count, reserved, size, offset)))
        patient.put(AUTOCLEAR_AT, u64(layout.AUTOCLEAR_BITMAPS))

    return change


def with_extended_l2_over_small_clusters(patient: Patient) -> None:
    patient.path.unlink()
    Patient(patient.path, cluster_size=4096).put(FEATURES_AT, u64(layout.INCOMPATIBLE_EXTENDED_L2))


def with_the_extended_bit_flipped_on(patient: Patient) -> None:
    patient.path.unlink()
    Patient(patient.path, size_bytes=units.GIB).put(FEATURES_AT, u64(layout.INCOMPATIBLE_EXTENDED_L2))


def with_l1_at_the_refcount_table(patient: Patient) -> None:
    patient.put(40, u64(patient.refcount_table))


def backing(name: bytes, **places: int) -> Callable[[Patient], object]:
    return lambda patient: patient.set_backing(name, **places)


NAME_OF_1024 = b"/" + b"x" * 1023

CASES = [
    Case(1, "bad magic", put(0, b"QFI\xfa"), "it doesn't begin with the magic number"),
    Case(1, "empty file", cut(0), "it doesn't begin with the magic number"),
    Case(1, "100-byte file", cut(100), "ends within its header, after 100 bytes"),
    Case(2, "version 0", put(4, u32(0)), "qcow2 version 0"),
    Case(2, "version 1", put(4, u32(1)), "qcow2 version 1"),
    Case(2, "version 4", put(4, u32(4)), "qcow2 version 4"),
    Case(3, "cluster bits 0", put(20, u32(0)), "clusters of 2^0 bytes"),
    Case(3, "cluster bits 8", put(20, u32(8)), "clusters of 2^8 bytes"),
    Case(3, "cluster bits 22", put(20, u32(22)), "clusters of 2^22 bytes"),
    Case(3, "cluster bits 2^32 - 1", put(20, u32(2**32 - 1)), "clusters of 2^4294967295 bytes"),
    Case(4, "size beyond the L1 table", put(24, u64(2**30)), "1073741824 bytes is more than its L1 table of 1 entries"),
    Case(4, "size 2^63", put(24, u64(2**63)), "9223372036854775808 bytes is more than its L1 table"),
    Case(4, "size 2^64 - 512", put(24, u64(2**64 - 512)), "is more than its L1 table"),
    Case(4, "size 2^64 - 1", put(24, u64(2**64 - 1)), "18446744073709551615 bytes is not whole sectors"),
    Case(6, "size of half a sector", put(24, u64(units.MIB + 256)), "1048832 bytes is not whole sectors of 512"),
    Case(7, "no L1 table", put(36, u32(0)), "more than its L1 table of 0 entries"),
    Case(7, "L1 table of over 32 MiB", put(36, u32(2**22 + 1)), "an L1 table of 4194305 entries"),
    Case(8, "L1 table misaligned", put(40, u64(3 * CLUSTER + 8)), "the L1 table is misaligned"),
    Case(8, "L1 table at 0", put(40, u64(0)), "the L1 table lies in the header's cluster"),
    Case(8, "L1 table past the end", put(40, u64(2**40)), "the L1 table reaches past the end of the file"),
    Case(8, "L1 table near 2^64", put(40, u64(2**64 - CLUSTER)), "the L1 table reaches past the end of the file"),
    Case(9, "L1 table is the refcount table", with_l1_at_the_refcount_table, "overlaps the"),
    Case(10, "no refcount table", put(56, u32(0)), "a refcount table of 0 clusters"),
    Case(10, "refcount table of over 8 MiB", put(56, u32(129)), "a refcount table of 129 clusters"),
    Case(10, "refcount table of 2^32 - 1", put(56, u32(2**32 - 1)), "a refcount table of 4294967295 clusters"),
    Case(11, "refcount table misaligned", put(48, u64(CLUSTER + 512)), "the refcount table is misaligned"),
    Case(11, "refcount table at 0", put(48, u64(0)), "the refcount table lies in the header's cluster"),
    Case(11, "refcount table past the end", put(48, u64(2**50)), "the refcount table reaches past the end of the file"),
    Case(12, "65,537 snapshots", put(60, u32(65_537)), "65537 internal snapshots; there can be 65536"),
    Case(13, "65,536 snapshots past the end", put(60, u32(65_536) + u64(2 * CLUSTER)), "the snapshot table reaches"),
    Case(14, "snapshot table misaligned", put(60, u32(1) + u64(CLUSTER + 8)), "the snapshot table is misaligned"),
    Case(14, "snapshot table in the header", put(60, u32(1) + u64(0)), "the snapshot table lies in the header"),
    Case(19, "refcount order 7", put(96, u32(7)), "refcount order 7"),
    Case(20, "header length 72", put(100, u32(72)), "a header length of 72"),
    Case(20, "header length 105", put(100, u32(105)), "a header length of 105"),
    Case(20, "header longer than a cluster", put(100, u32(CLUSTER + 8)), "a header length of 65544"),
    Case(21, "incompatible bit 5", put(FEATURES_AT, u64(1 << 5)), "incompatible bits 0x20"),
    Case(21, "incompatible bit 63", put(FEATURES_AT, u64(1 << 63)), "incompatible bits 0x8000000000000000"),
    Case(22, "data file without its name", put(FEATURES_AT, u64(1 << 2)), "it keeps its data in another file"),
    Case(
        22,
        "data file with its name",
        with_extensions(extension(layout.EXTENSION_DATA_FILE, b"/etc/passwd"), features=u64(1 << 2)),
        "it keeps its data in another file",
    ),
    Case(
        23, "data file's name", with_extensions(extension(layout.EXTENSION_DATA_FILE, b"data")), "it names a data file"
    ),
    Case(
        24,
        "json: data file",
        with_extensions(extension(layout.EXTENSION_DATA_FILE, b'json:{"driver":"file","filename":"/etc/passwd"}')),
        "it names a data file",
    ),
    Case(25, "compression bit without a type", put(FEATURES_AT, u64(1 << 3)), "the compression type contradicts"),
    Case(25, "compression type without the bit", put(104, b"\1"), "the compression type contradicts"),
    Case(25, "compression type 7", put(104, b"\7"), "compression type 7 is not known here"),
    Case(26, "extended L2 with 4 KiB", with_extended_l2_over_small_clusters, "L2 entries with clusters of 4096 bytes"),
    Case(26, "extended L2 flipped on", with_the_extended_bit_flipped_on, "more than its L1 table of 2 entries"),
    Case(27, "crypt method 1", put(32, u32(1)), "it is encrypted, by method 1"),
    Case(27, "crypt method 2", put(32, u32(2)), "it is encrypted, by method 2"),
    Case(27, "crypt method 99", put(32, u32(99)), "it is encrypted, by method 99"),
    Case(
        28, "LUKS extension", with_extensions(extension(layout.EXTENSION_ENCRYPTION, bytes(16))), "an encryption header"
    ),
    Case(29, "no bitmaps", with_bitmaps(0, 24, 3 * CLUSTER), "0 bitmaps"),
    Case(29, "65,536 bitmaps", with_bitmaps(65_536, 24 * 65_536, 3 * CLUSTER), "65536 bitmaps"),
    Case(29, "bitmaps reserved field", with_bitmaps(1, 24, 3 * CLUSTER, reserved=1), "in a reserved field"),
    Case(29, "bitmap directory too large", with_bitmaps(1, 2**26 + 1, 3 * CLUSTER), "a bitmap directory of 67108865"),
    Case(29, "bitmap directory too small", with_bitmaps(2, 47, 3 * CLUSTER), "a bitmap directory of 47 bytes"),
    Case(29, "bitmap directory misaligned", with_bitmaps(1, 24, 513), "the bitmap directory is misaligned"),
    Case(29, "bitmap directory past the end", with_bitmaps(1, 24, 2**50), "the bitmap directory reaches past the end"),
    Case(29, "bitmap directory in the header", with_bitmaps(1, 24, 0), "the bitmap directory lies in the header's"),
    Case(30, "extension of 0x7fffffff", with_extensions(struct.pack(">II", 0x1234, 0x7FFFFFFF)), "runs past its area"),
    Case(31, "8,177 empty extensions", with_extensions(distinct_extensions(8_177)), "more than 64 header extensions"),
    Case(31, "8,177 equal extensions", with_extensions(extension(5, b"") * 8_177), "extension 0x5 comes twice"),
    Case(
        32,
        "backing format of 16 bytes",
        with_extensions(extension(layout.EXTENSION_BACKING_FORMAT, b"q" * 16)),
        "a backing format name of 16 bytes",
    ),
    Case(35, "zero byte in the backing name", backing(b"base\0.qcow2"), "a zero byte in the backing name"),
    Case(35, "newline in the backing name", backing(b"base\n"), "control characters in the backing name"),
    Case(35, "terminal codes in the backing name", backing(b"\x1b[2J"), "control characters in the backing name"),
    Case(35, "backing name of no text", backing(b"\xff\xfe"), "the backing name is not UTF-8"),
    Case(35, "backing name of 1,024 bytes", backing(NAME_OF_1024), "a backing name of 1024 bytes"),
    Case(35, "backing name of 2^32 - 1 bytes", backing(b"b", length=2**32 - 1), "a backing name of 4294967295 bytes"),
    Case(36, "backing size without an offset", backing(b"base", offset=0), "4 bytes without an offset"),
    Case(36, "backing name past the cluster", backing(b"base", offset=CLUSTER - 2), "past the header's cluster"),
    Case(36, "backing name far away", backing(b"", offset=2**64 - 1, length=4), "past the header's cluster"),
    Case(52, "file cut within the L1 table", lambda patient: cut(patient.l1 + 4)(patient), "the L1 table reaches past"),
    Case(52, "file cut within the refcount table", cut(CLUSTER + 8), "reaches past the end of the file"),
    Case(36, "backing name in the header", backing(b"", offset=8, length=4), "within the fixed part of the header"),
]  # fmt: skip


def test_26_extended_l2_flipped_on_over_a_table_that_is_long_enough_is_not_imported(
    worker: trial.Worker, patient: Patient
) -> None:
    patient.put(FEATURES_AT, u64(layout.INCOMPATIBLE_EXTENDED_L2))
    worker.expect(patient.path, ["import"], "ImageRefused", "as if its entries were ordinary ones")


def test_26_extended_l2_flipped_off_is_an_error(worker: trial.Worker, patient: Patient) -> None:
    create.create(patient.path.with_name("extended"), size_bytes=SIZE, extended_l2=True)
    extended = patient.path.with_name("extended")
    with writer.Writer.open(extended) as target:
        target.write(0, bytes(range(256)) * 512)
    with extended.open("r+b") as file:
        file.seek(FEATURES_AT)
        file.write(u64(0))
    worker.expect(extended, ["read", "merge"], "Corrupt", "impossible")
    worker.expect(extended, ["import"], "ImageRefused", "it is damaged")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number}: {case.name}")
def test_a_header_that_lies_is_refused_whatever_is_done(worker: trial.Worker, patient: Patient, case: Case) -> None:
    case.change(patient)
    worker.expect(patient.path, actions.ACTIONS, "ImageRefused", case.refusal)


def test_the_patient_is_sound_before_the_operation(worker: trial.Worker, patient: Patient) -> None:
    endings = worker.run(patient.path, *actions.ACTIONS, changes=True)
    assert {ending.error for ending in endings.values()} == {""}, endings
    assert endings["check"].result == "0 bad, 0 leaks"
