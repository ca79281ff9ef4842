import pathlib

import pytest

from snapd import errors
from snapd.qcow2.checking import check, repair
from snapd.qcow2.reading import image
from snapd.qcow2.writing import create, writer

CLUSTER = 65536
SIZE = 64 * CLUSTER
BLOCK_AT = 2 * CLUSTER
"""Where a new image's first refcount block is."""


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return an image with eight clusters of data; the file has 13, without one that leaks."""
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=SIZE)
    with writer.Writer.open(path) as target:
        target.write(0, b"x" * (8 * CLUSTER))
    return path


def set_refcount(path: pathlib.Path, cluster: int, value: int) -> None:
    with path.open("r+b") as file:
        file.seek(BLOCK_AT + 2 * cluster)
        file.write(value.to_bytes(2))


def first_data_cluster(path: pathlib.Path) -> int:
    with image.Image.open(path) as opened:
        return int(opened.block_map(0, SIZE).host[0]) // CLUSTER


def test_a_sound_image_is_clean_and_counted(path: pathlib.Path) -> None:
    report = check.check(path)
    assert report.clean
    assert report.allocated_clusters == 8
    assert report.total_clusters == 64
    assert report.image_end_bytes == path.stat().st_size


def test_leaks_are_counted_and_repaired(path: pathlib.Path) -> None:
    with path.open("r+b") as file:
        file.truncate(20 * CLUSTER)
    for cluster in (15, 16, 19):
        set_refcount(path, cluster, cluster)
    report = check.check(path)
    assert (report.leaks, report.corruptions) == (3, 0)
    assert repair.repair_leaks(path) == 3
    assert check.check(path).clean
    assert repair.repair_leaks(path) == 0


def test_refcounts_past_the_end_are_repaired_before_they_become_leaks(path: pathlib.Path) -> None:
    with image.Image.open(path) as opened:
        end = opened.file_size // CLUSTER
    set_refcount(path, end, 1)
    set_refcount(path, end + 3, 1)
    assert check.check(path).clean
    assert repair.repair_leaks(path) == 2
    with path.open("r+b") as file:
        file.truncate((end + 4) * CLUSTER)
    assert check.check(path).clean


@pytest.mark.parametrize("refcount", [0, 2])
def test_a_refcount_that_contradicts_its_cluster_is_a_corruption(path: pathlib.Path, refcount: int) -> None:
    set_refcount(path, first_data_cluster(path), refcount)
    report = check.check(path)
    assert report.corruptions > 0
    with pytest.raises(errors.Corrupt, match="worse than leaks"):
        repair.repair_leaks(path)


def test_a_cluster_that_two_entries_share_is_a_corruption(path: pathlib.Path) -> None:
    with image.Image.open(path) as opened:
        l1, _ = opened.l1_and_metadata()
    with path.open("r+b") as file:
        file.seek(int(l1[0]) & (1 << 56) - 512)
        entry = file.read(8)
        file.write(entry)
    report = check.check(path)
    assert report.corruptions == 1
    assert report.leaks == 1


def test_impossible_entries_are_counted_and_not_followed(path: pathlib.Path) -> None:
    with image.Image.open(path) as opened:
        l1_offset = opened.header.l1_offset
    with path.open("r+b") as file:
        file.seek(l1_offset)
        file.write((1 << 63 | 1 << 50).to_bytes(8))
    report = check.check(path)
    # The place is one, and the flag that says of it that it is used once is another.
    assert report.corruptions == 2
    assert report.leaks == 9
