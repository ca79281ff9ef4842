"""Refcounts that lie: whoever believed them would overwrite what is in use. Checks see it, and no import lets it in.

Cases 49 to 51 and 59.
"""

import dataclasses
from collections.abc import Callable

import pytest

from snapd import units
from tests.hostile import surgery, trial
from tests.hostile.surgery import CLUSTER, COPIED, NOISE, Patient, u64


@dataclasses.dataclass(frozen=True)
class Case:
    """A change to a sound image after which its refcounts and its references contradict each other."""

    number: int
    name: str
    change: Callable[[Patient], object]
    readable: bool = True
    """The bytes of the disk are still beyond doubt."""


def share_a_data_cluster(patient: Patient) -> None:
    patient.set_l2(COPIED | patient.data, index=7)


def share_a_data_cluster_with_a_refcount_of_two(patient: Patient) -> None:
    patient.set_l2(patient.data)
    patient.set_l2(patient.data, index=7)
    patient.set_refcount(patient.data, 2)


def share_an_l2_table(patient: Patient) -> None:
    patient.path.unlink()
    Patient(patient.path, size_bytes=units.GIB).set_l1(COPIED | patient.l2, index=1)


def refcount(place: Callable[[Patient], int], count: int) -> Callable[[Patient], object]:
    return lambda patient: patient.set_refcount(place(patient), count)


def block_to(place: Callable[[Patient], int]) -> Callable[[Patient], object]:
    return lambda patient: patient.put(patient.refcount_table, u64(place(patient)))


def another_block_to(place: Callable[[Patient], int]) -> Callable[[Patient], object]:
    return lambda patient: patient.put(patient.refcount_table + 8, u64(place(patient)))


CASES = [
    Case(49, "data shared by two L2 entries", share_a_data_cluster),
    Case(49, "data shared with a refcount of two", share_a_data_cluster_with_a_refcount_of_two),
    Case(49, "L2 table shared by two L1 entries", share_an_l2_table),
    Case(50, "data without a refcount", refcount(lambda patient: patient.data, 0)),
    Case(50, "L2 table without a refcount", refcount(lambda patient: patient.l2, 0)),
    Case(50, "L1 table without a refcount", refcount(lambda patient: patient.l1, 0)),
    Case(50, "refcount block without a refcount", refcount(lambda patient: patient.refcount_block, 0)),
    Case(50, "refcount table without a refcount", refcount(lambda patient: patient.refcount_table, 0)),
    Case(50, "header without a refcount", refcount(lambda _: 0, 0)),
    Case(51, "no refcount block", block_to(lambda _: 0)),
    Case(51, "refcount block misaligned", block_to(lambda patient: patient.refcount_block + 512), readable=False),
    Case(51, "refcount block with reserved bits", block_to(lambda patient: patient.refcount_block | 1), readable=False),
    Case(51, "refcount block on the refcount table", block_to(lambda patient: patient.refcount_table), readable=False),
    Case(51, "refcount block on the L1 table", block_to(lambda patient: patient.l1), readable=False),
    Case(51, "refcount block on the L2 table", block_to(lambda patient: patient.l2), readable=False),
    Case(51, "refcount block on data", block_to(lambda patient: patient.data), readable=False),
    Case(51, "refcount block past the end", block_to(lambda patient: patient.end + CLUSTER), readable=False),
    Case(51, "refcount block near 2^64", block_to(lambda _: 2**64 - CLUSTER), readable=False),
    Case(51, "two blocks in one cluster", another_block_to(lambda patient: patient.refcount_block), readable=False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number}: {case.name}")
def test_a_check_sees_it_and_an_import_is_refused(worker: trial.Worker, patient: Patient, case: Case) -> None:
    case.change(patient)
    endings = worker.run(patient.path, "read", "check", "import")
    assert endings["import"].error == "ImageRefused", endings
    assert "qemu-img check -r all" in endings["import"].message
    if case.name != "data shared with a refcount of two":
        assert endings["check"].error == ""
        assert not endings["check"].result.startswith("0 bad"), endings
    assert endings["read"].error == "" or not case.readable, endings


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number}: {case.name}")
def test_a_merge_into_it_is_refused_or_leaves_what_it_holds(worker: trial.Worker, patient: Patient, case: Case) -> None:
    case.change(patient)
    before = patient.path.read_bytes()
    ending = worker.run(patient.path, "merge into", changes=True)["merge into"]
    if ending.error:
        assert ending.error in ("Corrupt", "ImageRefused"), ending
        assert patient.path.read_bytes() == before
    else:
        assert ending.result == "as it was"


def test_59_many_entries_on_one_compressed_cluster_are_bounded_work_and_not_imported(
    worker: trial.Worker, patient: Patient
) -> None:
    entry = patient.set_compressed(surgery.deflated(NOISE[:CLUSTER]))
    patient.put(patient.l2, u64(entry) * 64)
    patient.set_refcount(patient.end - CLUSTER, 64)
    endings = worker.run(patient.path, "read", "check", "import")
    assert endings["read"].error == ""
    assert endings["import"].error == "ImageRefused", endings


def test_59_a_thousand_entries_on_one_compressed_cluster_are_not_imported(
    worker: trial.Worker, patient: Patient
) -> None:
    patient.path.unlink()
    larger = Patient(patient.path, size_bytes=units.GIB)
    entry = larger.set_compressed(surgery.deflated(bytes(CLUSTER)))
    larger.put(larger.l2, u64(entry) * 1_024)
    larger.set_refcount(larger.end - CLUSTER, 1_024)
    worker.expect(larger.path, ["import"], "ImageRefused", "")


def test_59_two_thousand_l1_entries_on_one_l2_table_are_not_imported(worker: trial.Worker, patient: Patient) -> None:
    patient.path.unlink()
    larger = Patient(patient.path, size_bytes=units.TIB)
    larger.put(larger.l1, u64(larger.l2) * 2_048)
    larger.put(larger.l2, u64(0) * 8_192)
    larger.set_l2(1)
    larger.set_refcount(larger.l2, 2_048)
    worker.expect(larger.path, ["import"], "ImageRefused", "")
