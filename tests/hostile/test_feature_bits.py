"""Bits by which an image says what state it is in: dirty, corrupt, and features that a writer doesn't know.

Cases 53 to 55.
"""

import pytest

from snapd.qcow2.format import layout
from tests.hostile import trial
from tests.hostile.surgery import CLUSTER, NOISE, Patient, u64

INCOMPATIBLE_AT = 72
COMPATIBLE_AT = 80
LAZY_REFCOUNTS = 1
WHOLE = f"{len(NOISE) - NOISE.count(0)} bytes that aren't zero"


def test_53_refcounts_of_a_dirty_image_are_rebuilt_before_the_first_write(
    worker: trial.Worker, patient: Patient
) -> None:
    patient.put(INCOMPATIBLE_AT, u64(layout.INCOMPATIBLE_DIRTY) + u64(LAZY_REFCOUNTS))
    # As after a crash: clusters in use without a refcount, and one with a refcount that nothing refers to.
    for host in range(patient.data, patient.data + 3 * CLUSTER, CLUSTER):
        patient.set_refcount(host, 0)
    patient.append(bytes(CLUSTER))
    read = worker.run(patient.path, "read")["read"]
    assert (read.error, read.result) == ("", WHOLE)
    assert worker.run(patient.path, "merge into", changes=True)["merge into"] == trial.Ending("", "", "as it was")
    assert patient.word(INCOMPATIBLE_AT) & layout.INCOMPATIBLE_DIRTY == 0
    assert worker.run(patient.path, "check")["check"].result == "0 bad, 0 leaks"


def test_54_an_image_that_is_marked_corrupt_is_read_but_never_written_nor_imported(
    worker: trial.Worker, patient: Patient
) -> None:
    patient.put(INCOMPATIBLE_AT, u64(layout.INCOMPATIBLE_CORRUPT))
    read = worker.run(patient.path, "read")["read"]
    assert (read.error, read.result) == ("", WHOLE)
    for action in ("write", "merge into"):
        ending = worker.run(patient.path, action)[action]
        assert ending.error in ("ImageRefused", "Corrupt"), ending
        assert "corrupt" in ending.message
    worker.expect(patient.path, ["import"], "ImageRefused", "it is marked corrupt; have `qemu-img check -r all`")


@pytest.mark.parametrize("bit", [0, 1, 2, 63])
def test_55_an_autoclear_bit_is_cleared_by_the_first_write_and_not_by_reading(
    worker: trial.Worker, patient: Patient, bit: int
) -> None:
    patient.put(layout.AUTOCLEAR_AT, u64(1 << bit))
    endings = worker.run(patient.path, "read", "check", "import")
    assert {ending.error for ending in endings.values()} == {""}, endings
    assert patient.word(layout.AUTOCLEAR_AT) == 1 << bit
    assert worker.run(patient.path, "write", changes=True)["write"].error == ""
    assert patient.word(layout.AUTOCLEAR_AT) == 0


def test_an_unknown_compatible_bit_is_left_alone(worker: trial.Worker, patient: Patient) -> None:
    patient.put(COMPATIBLE_AT, u64(1 << 63))
    endings = worker.run(patient.path, "read", "check", "import", "write", changes=True)
    assert {ending.error for ending in endings.values()} == {""}, endings
    assert patient.word(COMPATIBLE_AT) == 1 << 63
