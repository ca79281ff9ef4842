"""What makes an image unfit to be imported or folded, each by its name."""

import pathlib
from collections.abc import Callable

import pytest

from snapd import errors
from snapd.qcow2.checking import check, repair
from snapd.qcow2.format import header, layout
from snapd.qcow2.reading import image
from snapd.qcow2.writing import create, writer

CLUSTER = 65536
SIZE = 64 * CLUSTER
COPIED = 1 << 63


class Patient:
    """An image with eight clusters of data in a row."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        create.create(path, size_bytes=SIZE)
        with writer.Writer.open(path) as target:
            target.write(0, b"x" * (8 * CLUSTER))
        with image.Image.open(path) as opened:
            self.header: header.Header = opened.header
            l1, _ = opened.l1_and_metadata()
            self.data = int(opened.block_map(0, SIZE).host[0])
        self.l2 = int(l1[0]) & layout.OFFSET_MASK
        self.block = self.word(self.header.refcount_table_offset)

    def word(self, at: int) -> int:
        return int.from_bytes(self.path.read_bytes()[at : at + 8])

    def put(self, at: int, value: int, length: int = 8) -> None:
        with self.path.open("r+b") as file:
            file.seek(at)
            file.write(value.to_bytes(length))

    def refcount(self, offset: int, value: int) -> None:
        self.put(self.block + 2 * (offset // CLUSTER), value, 2)


def share(patient: Patient) -> None:
    """Have two entries name one cluster, as the refcounts allow for."""
    patient.put(patient.l2, patient.data)
    patient.put(patient.l2 + 8, patient.data)
    patient.refcount(patient.data, 2)


def share_table(patient: Patient) -> None:
    """Have the disk be twice as long, and both halves be one L2 table."""
    patient.put(patient.header.l1_offset, patient.l2)
    patient.put(patient.header.l1_offset + 8, patient.l2)
    patient.refcount(patient.l2, 2)
    patient.put(layout.SIZE_FIELDS_AT + 12, 2, 4)


def lie_on_l1(patient: Patient) -> None:
    """Have an entry name the L1 table, as the refcounts allow for."""
    patient.put(patient.l2, patient.header.l1_offset)
    patient.refcount(patient.header.l1_offset, 2)


WRONG: list[tuple[Callable[[Patient], None], str]] = [
    (lambda patient: patient.put(patient.l2, 1 << 50 | COPIED), "impossible"),
    (lambda patient: patient.put(patient.l2, patient.data + 512 | COPIED), "impossible"),
    (lambda patient: patient.refcount(patient.data, 0), "no refcount"),
    (lambda patient: patient.refcount(patient.data, 3), "COPIED flags"),
    (lambda patient: patient.put(patient.l2, patient.data), "COPIED flags"),
    (lambda patient: patient.put(patient.header.refcount_table_offset, 1 << 50), "impossible"),
    (lambda patient: patient.put(patient.header.refcount_table_offset + 8, 1 << 50), "impossible"),
    (share, "share"),
    (lie_on_l1, "lies on"),
]


@pytest.mark.parametrize(("damage", "problem"), WRONG)
def test_an_image_that_is_not_sound_is_refused_by_what_is_wrong(
    tmp_path: pathlib.Path, damage: Callable[[Patient], None], problem: str
) -> None:
    patient = Patient(tmp_path / "disk.qcow2")
    damage(patient)
    with image.Image.open(patient.path) as opened, pytest.raises(errors.Corrupt, match=problem):
        check.require_sound(opened)


def test_an_l2_table_of_two_halves_of_a_disk_is_refused(tmp_path: pathlib.Path) -> None:
    patient = Patient(tmp_path / "disk.qcow2")
    share_table(patient)
    assert check.check(patient.path).allocated_clusters == 16
    with image.Image.open(patient.path) as opened, pytest.raises(errors.Corrupt, match="share"):
        check.require_sound(opened)


def test_leaks_are_no_matter(tmp_path: pathlib.Path) -> None:
    patient = Patient(tmp_path / "disk.qcow2")
    patient.put(patient.l2, 0)
    assert check.check(patient.path).leaks == 1
    with image.Image.open(patient.path) as opened:
        check.require_sound(opened)


def test_a_dirty_image_may_have_any_refcounts_but_no_impossible_entries(tmp_path: pathlib.Path) -> None:
    patient = Patient(tmp_path / "disk.qcow2")
    patient.refcount(patient.data, 0)
    patient.put(72, layout.INCOMPATIBLE_DIRTY)
    with image.Image.open(patient.path) as opened:
        check.require_sound(opened)
    patient.put(patient.l2, 1 << 50 | COPIED)
    with image.Image.open(patient.path) as opened, pytest.raises(errors.Corrupt, match="impossible"):
        check.require_sound(opened)


def test_a_compressed_cluster_that_two_entries_name_is_refused(tmp_path: pathlib.Path) -> None:
    patient = Patient(tmp_path / "disk.qcow2")
    entry = layout.COMPRESSED | patient.data
    for number in range(8):
        patient.put(patient.l2 + 8 * number, entry + 600 * number if number < 7 else entry)
        patient.refcount(patient.data + number * CLUSTER, 0)
    patient.refcount(patient.data, 8)
    assert check.check(patient.path).clean
    with image.Image.open(patient.path) as opened, pytest.raises(errors.Corrupt, match="compressed clusters that two"):
        check.require_sound(opened)
    patient.put(patient.l2 + 8 * 7, entry + 600 * 7)
    with image.Image.open(patient.path) as opened:
        check.require_sound(opened)


def test_an_entry_just_behind_the_end_keeps_a_repair_from_growing_the_file_over_it(tmp_path: pathlib.Path) -> None:
    patient = Patient(tmp_path / "disk.qcow2")
    patient.put(patient.l2, patient.path.stat().st_size + 2 * CLUSTER | COPIED)
    patient.refcount(patient.data + CLUSTER, 0)
    damaged = patient.path.read_bytes()
    with pytest.raises(errors.Corrupt, match="behind the file's end"):
        repair.repair(patient.path, leaks_only=False)
    assert patient.path.read_bytes() == damaged


def test_worse_than_leaks_is_left_alone_by_who_mends_leaks_only(tmp_path: pathlib.Path) -> None:
    patient = Patient(tmp_path / "disk.qcow2")
    patient.refcount(patient.data, 0)
    damaged = patient.path.read_bytes()
    with pytest.raises(errors.Corrupt, match="worse than leaks"):
        repair.repair(patient.path, leaks_only=True)
    assert patient.path.read_bytes() == damaged


def test_a_leak_of_a_cluster_in_use_is_mended_with_its_flag(tmp_path: pathlib.Path) -> None:
    patient = Patient(tmp_path / "disk.qcow2")
    patient.refcount(patient.data, 2)
    patient.put(patient.l2, patient.data)
    assert check.check(patient.path).leaks == 1
    assert repair.repair_leaks(patient.path) == 0
    assert repair.repair(patient.path, leaks_only=True) == repair.RepairReport(1, 0)
    assert check.check(patient.path).clean
    assert patient.word(patient.l2) == patient.data | COPIED
