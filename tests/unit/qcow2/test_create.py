import pathlib
from typing import Any

import pytest

from snapd import errors, fsops, units
from snapd.qcow2.checking import check
from snapd.qcow2.format import header, layout
from snapd.qcow2.reading import image
from snapd.qcow2.writing import create


class Killed(BaseException):
    """The process ended here."""


def backing_name(path: pathlib.Path) -> str | None:
    with image.Image.open(path) as opened:
        return opened.header.backing_name


@pytest.mark.parametrize("cluster_size", [512, 4096, 65536, 2 * units.MIB])
@pytest.mark.parametrize("size_bytes", [0, 512, 5 * units.GIB])
def test_a_new_image_is_sound_and_empty(tmp_path: pathlib.Path, cluster_size: int, size_bytes: int) -> None:
    path = tmp_path / "new"
    create.create(path, size_bytes=size_bytes, cluster_size=cluster_size)
    assert check.check(path).clean
    with image.Image.open(path) as opened:
        assert len(opened.block_map(0, size_bytes)) == 0


@pytest.mark.parametrize("size_bytes", [units.GIB, 16 * units.TIB])
def test_creating_takes_the_same_few_operations_at_any_size(tmp_path: pathlib.Path, size_bytes: int) -> None:
    operations: list[fsops.Operation] = []
    fsops.observe(operations.append)
    try:
        create.create(tmp_path / "new", size_bytes=size_bytes, backing_name="base")
    finally:
        fsops.observe(None)
    assert [operation.name for operation in operations] == ["create", "pwrite", "pwrite", "pwrite", "truncate", "fsync"]
    assert sum(operation.length for operation in operations) < units.KIB


@pytest.mark.parametrize(
    ("size_bytes", "cluster_size"),
    [(-512, 65536), (513, 65536), (units.TIB, 512), (units.GIB, 1000), (units.GIB, 256), (units.GIB, 4 * units.MIB)],
)
def test_sizes_that_the_format_cannot_hold_are_refused(
    tmp_path: pathlib.Path, size_bytes: int, cluster_size: int
) -> None:
    with pytest.raises(errors.InvalidField):
        create.create(tmp_path / "new", size_bytes=size_bytes, cluster_size=cluster_size)
    assert not (tmp_path / "new").exists()


def test_an_existing_file_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "new").write_bytes(b"mine")
    with pytest.raises(errors.StorageFailed):
        create.create(tmp_path / "new", size_bytes=units.GIB)
    assert (tmp_path / "new").read_bytes() == b"mine"


@pytest.mark.parametrize("old", [None, "old.qcow2"])
@pytest.mark.parametrize("new", [None, "new", "a/much/longer/name.qcow2"])
def test_killed_anywhere_the_backing_name_is_the_old_one_or_the_new_one(
    tmp_path: pathlib.Path, old: str | None, new: str | None
) -> None:
    path = tmp_path / "disk.qcow2"
    create.create(
        path, size_bytes=units.GIB, backing_name=old, extensions=[(header.POINT_EXTENSION, b"where it froze")]
    )
    strike = 0
    seen = {old}
    finished = False
    while not finished:
        strike += 1
        count = [strike]

        def observer(_: fsops.Operation, count: list[int] = count) -> None:
            count[0] -= 1
            if count[0] == 0:
                raise Killed

        fsops.observe(observer)
        try:
            create.set_backing_name(path, new)
            finished = True
        except Killed:
            seen.add(backing_name(path))
        finally:
            fsops.observe(None)
    assert seen <= {old, new}
    assert backing_name(path) == new
    with image.Image.open(path) as opened:
        assert opened.header.extension(header.POINT_EXTENSION) == b"where it froze"
        assert new is None or opened.header.backing_format == "qcow2"


def test_a_backing_name_can_be_changed_any_number_of_times(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=units.GIB, backing_name="0")
    for length in (1, 1023, 40, 1000, 2):
        create.set_backing_name(path, "n" * length)
        assert backing_name(path) == "n" * length
    with pytest.raises(errors.ImageRefused, match="1024"):
        create.set_backing_name(path, "n" * 1024)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"version": 4}, "version"),
        ({"version": 2, "refcount_bits": 8}, "version"),
        ({"version": 2, "compression": "zstd"}, "version"),
        ({"version": 2, "extended_l2": True}, "version"),
        ({"refcount_bits": 128}, "refcount_bits"),
        ({"refcount_bits": 0}, "refcount_bits"),
        ({"refcount_bits": 12}, "refcount_bits"),
        ({"compression": "lz4"}, "compression"),
        ({"extended_l2": True, "cluster_size": 8192}, "extended_l2"),
        ({"backing_name": ""}, "backing_name"),
        ({"backing_name": "n" * 1024}, "backing_name"),
        ({"backing_name": "one\ntwo"}, "backing_name"),
        ({"backing_name": "base", "backing_format": "a format"}, "backing_format"),
        ({"backing_name": "base", "backing_format": "f" * 16}, "backing_format"),
    ],
)
def test_options_that_the_format_does_not_have_are_refused(
    tmp_path: pathlib.Path, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(errors.InvalidField) as caught:
        create.create(tmp_path / "new", size_bytes=units.GIB, **options)
    assert caught.value.field == field
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("backing_format", ["qcow2", "raw"])
def test_a_backing_file_is_named_with_its_format(tmp_path: pathlib.Path, version: int, backing_format: str) -> None:
    path = tmp_path / "new"
    create.create(path, size_bytes=units.GIB, version=version, backing_name="base", backing_format=backing_format)
    with image.Image.open(path) as opened:
        assert opened.header.version == version
        assert opened.header.backing_name == "base"
        assert opened.header.backing_format == backing_format


@pytest.mark.parametrize(("cluster_size", "named"), [(512, False), (4096, True), (65536, True)])
def test_features_are_named_where_the_header_has_room(tmp_path: pathlib.Path, cluster_size: int, named: bool) -> None:
    create.create(tmp_path / "new", size_bytes=units.MIB, cluster_size=cluster_size, extensions=[(7, b"ours")])
    with image.Image.open(tmp_path / "new") as opened:
        names = opened.header.extension(layout.EXTENSION_FEATURE_NAMES)
        assert opened.header.extension(7) == b"ours"
    assert (names is not None) == named
    assert names is None or (len(names) == 8 * 48 and b"extended L2 entries" in names)
