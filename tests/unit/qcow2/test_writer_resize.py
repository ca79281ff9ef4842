"""Disks that get another size keep what fits, grow by zeros, and lose data only by force."""

import pathlib

import pytest

from snapd import errors, fsops, units
from snapd.blockmap import Kind
from snapd.qcow2.checking import check
from snapd.qcow2.format import layout
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, writer

CLUSTER = 65536
SIZE = 64 * CLUSTER


def content(path: pathlib.Path, *, locked: bool = True) -> bytes:
    with image.Image.open(path, locked=locked) as opened:
        buffer = bytearray(opened.size_bytes)
        chain.Chain([opened]).read_into(0, memoryview(buffer))
        return bytes(buffer)


@pytest.mark.parametrize("cluster_size", [512, CLUSTER])
@pytest.mark.parametrize("new_size", [512, 3 * CLUSTER + 1024, SIZE, 16 * SIZE + 512])
def test_a_resized_disk_keeps_what_fits_and_grows_by_zeros(
    tmp_path: pathlib.Path, cluster_size: int, new_size: int
) -> None:
    path = tmp_path / "disk"
    old_size = SIZE // 2 + 512
    create.create(path, size_bytes=old_size, cluster_size=cluster_size)
    with writer.Writer.open(path) as target:
        target.write(0, b"1" * old_size)
        target.flush()
        target.resize(new_size, force=True)
        before = content(path, locked=False)
        assert len(before) == old_size
        assert before.startswith(b"1" * min(old_size, new_size))
    assert content(path) == (b"1" * min(old_size, new_size)).ljust(new_size, b"\0")
    assert check.check(path).clean
    with writer.Writer.open(path) as target:
        target.resize(old_size, force=True)
    assert content(path) == (b"1" * min(old_size, new_size)).ljust(old_size, b"\0")
    assert check.check(path).clean


def test_a_disk_that_grows_over_a_backing_file_does_not_show_it(tmp_path: pathlib.Path) -> None:
    create.create(tmp_path / "bottom", size_bytes=SIZE)
    with writer.Writer.open(tmp_path / "bottom") as filled:
        filled.write(0, b"b" * SIZE)
    create.create(tmp_path / "top", size_bytes=CLUSTER + 512, backing_name="bottom")
    with image.Image.open(tmp_path / "bottom") as bottom:
        with writer.Writer.open(tmp_path / "top", chain.Chain([bottom])) as target:
            target.resize(4 * CLUSTER)
        with image.Image.open(tmp_path / "top") as top:
            buffer = bytearray(4 * CLUSTER)
            chain.Chain([top, bottom]).read_into(0, memoryview(buffer))
            assert buffer == (b"b" * (CLUSTER + 512)).ljust(4 * CLUSTER, b"\0")
            assert top.block_map(2 * CLUSTER, CLUSTER).kind.tolist() == [Kind.ZERO]


def test_what_another_writer_left_behind_the_end_of_a_disk_never_shows(tmp_path: pathlib.Path) -> None:
    create.create(tmp_path / "bottom", size_bytes=CLUSTER)
    path = tmp_path / "top"
    create.create(path, size_bytes=CLUSTER + 512, backing_name="bottom")
    with image.Image.open(tmp_path / "bottom") as bottom:
        below = chain.Chain([bottom])
        with writer.Writer.open(path, below) as target:
            target.write(CLUSTER, b"t" * 512)
        with image.Image.open(path) as top:
            host = int(top.block_map(CLUSTER, 512).host[0])
        with path.open("r+b") as file:
            file.seek(host + 512)
            file.write(b"?" * (CLUSTER - 512))
        with writer.Writer.open(path, below) as target:
            target.resize(3 * CLUSTER)
    assert content(path)[CLUSTER:] == (b"t" * 512).ljust(2 * CLUSTER, b"\0")


@pytest.mark.parametrize("extended_l2", [False, True])
def test_a_disk_with_data_beyond_the_new_end_is_not_made_smaller(tmp_path: pathlib.Path, extended_l2: bool) -> None:
    path = tmp_path / "disk"
    create.create(path, size_bytes=SIZE, extended_l2=extended_l2)
    with writer.Writer.open(path) as target:
        target.write(10 * CLUSTER, b"1" * CLUSTER)
        with pytest.raises(errors.DataBeyondEnd):
            target.resize(10 * CLUSTER)
        target.resize(11 * CLUSTER)
        target.write_zeroes(10 * CLUSTER, CLUSTER)
        target.resize(512)
    assert content(path) == bytes(512)
    assert check.check(path).clean


@pytest.mark.parametrize("extended_l2", [False, True])
def test_what_shows_of_the_backing_file_counts_as_data(tmp_path: pathlib.Path, extended_l2: bool) -> None:
    create.create(tmp_path / "bottom", size_bytes=SIZE)
    with writer.Writer.open(tmp_path / "bottom") as filled:
        filled.write(10 * CLUSTER, b"b" * 512)
    path = tmp_path / "top"
    create.create(path, size_bytes=SIZE, backing_name="bottom", extended_l2=extended_l2)
    with image.Image.open(tmp_path / "bottom") as bottom:
        with writer.Writer.open(path, chain.Chain([bottom])) as target:
            target.resize(11 * CLUSTER)
            with pytest.raises(errors.DataBeyondEnd):
                target.resize(10 * CLUSTER)
            target.write_zeroes(10 * CLUSTER, CLUSTER)
            target.resize(10 * CLUSTER)
        with image.Image.open(path) as top:
            assert top.size_bytes == 10 * CLUSTER
    assert check.check(path).clean


def test_a_disk_shrinks_within_its_last_cluster(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk"
    create.create(path, size_bytes=CLUSTER + 1024)
    with writer.Writer.open(path) as target:
        target.write(0, b"1" * (CLUSTER + 1024))
        target.resize(CLUSTER + 512, force=True)
    assert content(path) == b"1" * (CLUSTER + 512)
    with writer.Writer.open(path) as target:
        target.resize(2 * CLUSTER)
    assert content(path) == (b"1" * (CLUSTER + 512)).ljust(2 * CLUSTER, b"\0")
    assert check.check(path).clean


@pytest.mark.parametrize("extended_l2", [False, True])
def test_the_l1_table_moves_when_a_disk_outgrows_it_and_its_old_place_is_given_back(
    tmp_path: pathlib.Path, extended_l2: bool
) -> None:
    path = tmp_path / "disk"
    create.create(path, size_bytes=units.MIB, cluster_size=16384, extended_l2=extended_l2)
    with writer.Writer.open(path) as target:
        target.write(0, b"1" * units.MIB)
        target.resize(units.TIB)
        target.write(units.TIB - 512, b"2" * 512)
        target.flush()
        target.resize(2 * units.MIB, force=True)
    assert content(path) == (b"1" * units.MIB).ljust(2 * units.MIB, b"\0")
    assert check.check(path).clean


@pytest.mark.parametrize("size_bytes", [-512, 513, 1 << 62])
def test_sizes_that_the_format_cannot_hold_are_refused(tmp_path: pathlib.Path, size_bytes: int) -> None:
    path = tmp_path / "disk"
    create.create(path, size_bytes=SIZE)
    with writer.Writer.open(path) as target:
        target.write(0, b"1" * 512)
        with pytest.raises(errors.InvalidField):
            target.resize(size_bytes)
    assert content(path).startswith(b"1" * 512)


@pytest.mark.parametrize("larger", [False, True])
def test_growing_writes_zeros_only_where_a_backing_file_would_show(tmp_path: pathlib.Path, larger: bool) -> None:
    create.create(tmp_path / "bottom", size_bytes=units.TIB if larger else SIZE)
    create.create(tmp_path / "top", size_bytes=SIZE, backing_name="bottom")
    bottom = image.Image.open(tmp_path / "bottom")
    with bottom, writer.Writer.open(tmp_path / "top", chain.Chain([bottom])) as target:
        target.resize(2 * units.TIB)
    with image.Image.open(tmp_path / "top") as top:
        l1, _ = top.l1_and_metadata()
    tables = int((l1 & layout.OFFSET_MASK != 0).sum())
    assert tables == (units.TIB // (CLUSTER * 8192) if larger else 0)


class Killed(BaseException):
    """The process ended here."""


def shrink_until(path: pathlib.Path, beneath: chain.Chain, size_bytes: int, strike: int) -> bool:
    """Shrink a disk, killed before the given operation; False if it came to its end."""
    left = [strike]

    def observer(_: fsops.Operation) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    fsops.observe(observer)
    try:
        with writer.Writer.open(path, beneath) as target:
            target.resize(size_bytes, force=True)
    except Killed:
        return True
    finally:
        fsops.observe(None)
    return False


@pytest.mark.parametrize("extended_l2", [False, True])
def test_killed_while_it_shrinks_a_disk_has_one_size_or_the_other_and_shows_nothing_from_below(
    tmp_path: pathlib.Path, extended_l2: bool
) -> None:
    old, new = SIZE, 5 * CLUSTER + 512
    create.create(tmp_path / "bottom", size_bytes=SIZE)
    with writer.Writer.open(tmp_path / "bottom") as filled:
        filled.write(0, b"b" * SIZE)
    bottom = image.Image.open(tmp_path / "bottom")
    beneath = chain.Chain([bottom])

    def content(path: pathlib.Path) -> bytes:
        with image.Image.open(path) as top:
            buffer = bytearray(top.size_bytes)
            chain.Chain([top, bottom]).read_into(0, memoryview(buffer))
            return bytes(buffer)

    sizes = set[int]()
    killed, strike = True, 0
    while killed:
        strike += 1
        path = tmp_path / f"top-{strike}"
        create.create(path, size_bytes=old, backing_name="bottom", extended_l2=extended_l2)
        with writer.Writer.open(path, beneath) as target:
            target.write(0, b"t" * old)
        killed = shrink_until(path, beneath, new, strike)
        found = content(path)
        sizes.add(len(found))
        # What is about to go may be zeros already.
        assert found.startswith(b"t" * new)
        assert b"b" not in found
        with writer.Writer.open(path, beneath) as target:
            target.resize(2 * old)
        assert content(path) == found.ljust(2 * old, b"\0")
    assert sizes == {old, new}
    bottom.close()
