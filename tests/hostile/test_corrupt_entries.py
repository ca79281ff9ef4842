"""Tables that lie: what depends on a bad entry is an error, never zeros and never other bytes; no import lets it in.

Cases 41 to 52.
"""

import dataclasses
import os
from collections.abc import Callable

import pytest

from snapd.qcow2.format import layout
from tests.hostile import surgery, trial
from tests.hostile.surgery import CLUSTER, COPIED, NOISE, Patient


@dataclasses.dataclass(frozen=True)
class Case:
    """A change to a sound image that makes it impossible to read."""

    number: int
    name: str
    change: Callable[[Patient], object]
    problem: str = "impossible L2 entry"
    """Part of what a reader says."""
    unpacked: bool = False
    """It shows only when a compressed cluster is unpacked, which no check does."""


def l1_to(place: Callable[[Patient], int]) -> Callable[[Patient], object]:
    return lambda patient: patient.set_l1(COPIED | place(patient))


def l1_with(flags: int) -> Callable[[Patient], object]:
    return lambda patient: patient.set_l1(COPIED | patient.l2 | flags)


def l2_with(flags: int) -> Callable[[Patient], object]:
    return lambda patient: patient.set_l2(COPIED | patient.data | flags)


def l2_to(place: Callable[[Patient], int], flags: int = COPIED) -> Callable[[Patient], object]:
    return lambda patient: patient.set_l2(flags | place(patient))


def cut_at(place: Callable[[Patient], int]) -> Callable[[Patient], object]:
    return lambda patient: os.truncate(patient.path, place(patient))


def compressed(change: Callable[[Patient], int]) -> Callable[[Patient], object]:
    """Make the first guest cluster a compressed one; change returns its entry."""
    return lambda patient: patient.set_l2(change(patient))


def past_the_end(patient: Patient) -> int:
    return surgery.compressed_entry(patient.end + CLUSTER, 3)


def longer_than_the_file(patient: Patient) -> int:
    return surgery.compressed_entry(patient.append(surgery.deflated(bytes(CLUSTER))), 200)


def with_copied_flag(patient: Patient) -> int:
    return patient.set_compressed(surgery.deflated(NOISE[:CLUSTER]), flags=COPIED)


def of_garbage(patient: Patient) -> int:
    return patient.set_compressed(b"\xff" * 2048)


def of_a_stream_that_ends_early(patient: Patient) -> int:
    return patient.set_compressed(surgery.deflated(NOISE[: CLUSTER - 1]))


def of_a_cut_stream(patient: Patient) -> int:
    return patient.set_compressed(surgery.deflated(NOISE[:CLUSTER])[:512])


def on_metadata(patient: Patient) -> int:
    return surgery.compressed_entry(patient.l2, 1)


L1 = "impossible L1 entry 0"
LIES_ON = "an L2 table lies on other metadata"

CASES = [
    Case(41, "L1 entry to the header", l1_to(lambda _: 0), L1),
    Case(41, "L1 entry to the L1 table", l1_to(lambda patient: patient.l1), LIES_ON),
    Case(41, "L1 entry to the refcount table", l1_to(lambda patient: patient.refcount_table), LIES_ON),
    Case(41, "L1 entry to a refcount block", l1_to(lambda patient: patient.refcount_block), LIES_ON),
    Case(42, "L1 entry misaligned", l1_to(lambda patient: patient.l2 + 512), L1),
    *(Case(42, f"L1 reserved bit {bit}", l1_with(1 << bit), L1) for bit in (0, 8, 56, 62)),
    Case(43, "L2 table past the end", l1_to(lambda patient: patient.end + CLUSTER), L1),
    Case(43, "data past the end", l2_to(lambda patient: patient.end + CLUSTER)),
    Case(44, "L2 entry to the header", l2_to(lambda _: 0)),
    Case(44, "L2 entry to the refcount table", l2_to(lambda patient: patient.refcount_table)),
    Case(44, "L2 entry to a refcount block", l2_to(lambda patient: patient.refcount_block)),
    Case(44, "L2 entry to the L1 table", l2_to(lambda patient: patient.l1)),
    Case(44, "L2 entry to its own table", l2_to(lambda patient: patient.l2)),
    Case(45, "L2 entry misaligned", l2_to(lambda patient: patient.data + 512)),
    Case(45, "L2 entry misaligned and zero", l2_to(lambda patient: patient.data + 512, COPIED | layout.ZERO)),
    *(Case(46, f"L2 reserved bit {bit}", l2_with(1 << bit)) for bit in (*range(1, 9), *range(56, 62))),
    Case(47, "offset near 2^56", l2_to(lambda _: 0x00FF_FFFF_FFFF_0000)),
    Case(47, "offset near 2^56 and zero", l2_to(lambda _: 0x00FF_FFFF_FFFF_0001)),
    Case(47, "all bits", l2_to(lambda _: 2**64 - 1)),
    Case(47, "L1 offset near 2^56", l1_to(lambda _: 0x00FF_FFFF_FFFF_0000), L1),
    Case(47, "L1 with all bits", l1_to(lambda _: 2**64 - 1), L1),
    Case(48, "compressed past the end", compressed(past_the_end)),
    Case(48, "compressed longer than the file", compressed(longer_than_the_file)),
    Case(48, "compressed and COPIED", compressed(with_copied_flag)),
    Case(48, "compressed on metadata", compressed(on_metadata)),
    Case(48, "compressed near 2^56", compressed(lambda _: surgery.compressed_entry((1 << 54) - 512, 2))),
    Case(48, "compressed garbage", compressed(of_garbage), "compressed cluster at offset", unpacked=True),
    Case(48, "compressed stream too short", compressed(of_a_stream_that_ends_early), "stream ends", unpacked=True),
    Case(48, "compressed stream cut", compressed(of_a_cut_stream), "compressed cluster at offset", unpacked=True),
    Case(52, "cut within data", cut_at(lambda patient: patient.data + CLUSTER)),
    Case(52, "cut before data", cut_at(lambda patient: patient.data)),
    Case(52, "cut within the L2 table", cut_at(lambda patient: patient.l2 + 512), L1),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number}: {case.name}")
def test_what_depends_on_a_bad_entry_is_an_error(worker: trial.Worker, patient: Patient, case: Case) -> None:
    case.change(patient)
    worker.expect(patient.path, ["read"], "Corrupt", case.problem)
    endings = worker.run(patient.path, "open", "merge", "check", "import")
    assert endings["merge"].error == "Corrupt"
    assert endings["open"].error == ""
    assert endings["check"].error == ""
    assert case.unpacked or not endings["check"].result.startswith("0 "), endings
    # An import is refused before it begins, if that can be known without unpacking everything.
    assert endings["import"].error == ("Corrupt" if case.unpacked else "ImageRefused"), endings


def test_52_a_last_cluster_that_the_end_of_the_file_cuts_short_goes_on_with_zeros(
    worker: trial.Worker, patient: Patient
) -> None:
    os.truncate(patient.path, patient.end - CLUSTER // 2)
    endings = worker.run(patient.path, "read", "merge", "import")
    assert {ending.error for ending in endings.values()} == {""}, endings
    whole = sum(byte != 0 for byte in NOISE[: -CLUSTER // 2])
    assert endings["read"].result == f"{whole} bytes that aren't zero"
