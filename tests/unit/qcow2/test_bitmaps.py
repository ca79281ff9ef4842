import pathlib
import struct

import pytest

from snapd import errors, units
from snapd.qcow2.format import layout
from snapd.qcow2.reading import image
from snapd.qcow2.writing import create

CLUSTER = 65536
SIZE = 4 * units.MIB
PADDED = 8


def entry(
    *, offset: int = 0, entries: int = 1, flags: int = 0, kind: int = 1, bits: int = 16, name: bytes = b"backup",
    extra: bytes = b"",
) -> bytes:  # fmt: skip
    data = layout.BITMAP_ENTRY.pack(offset, entries, flags, kind, bits, len(name), len(extra)) + extra + name
    return data.ljust(units.round_up(len(data), PADDED), b"\0")


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return an image with room for a bitmap's table and a directory in its last two clusters."""
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=SIZE)
    with path.open("r+b") as file:
        file.truncate(units.round_up(path.stat().st_size, CLUSTER) + 2 * CLUSTER)
    return path


def table_of(path: pathlib.Path) -> int:
    return path.stat().st_size - 2 * CLUSTER


def opened(path: pathlib.Path, *entries: bytes, count: int | None = None, noted: bool = True) -> image.Image:
    """Write a directory of these entries into the image and open it."""
    directory = b"".join(entries)
    number = len(entries) if count is None else count
    fields = struct.pack(">II", layout.EXTENSION_BITMAPS, layout.BITMAPS.size)
    fields += layout.BITMAPS.pack(number, 0, len(directory), table_of(path) + CLUSTER)
    with path.open("r+b") as file:
        file.seek(layout.AUTOCLEAR_AT)
        file.write((layout.AUTOCLEAR_BITMAPS if noted else 0).to_bytes(8))
        file.seek(layout.CREATED_HEADER_LENGTH)
        file.write(fields + bytes(8))
        file.seek(table_of(path) + CLUSTER)
        file.write(directory)
    return image.Image.open(path)


def test_entries_say_what_their_fields_say(path: pathlib.Path) -> None:
    at = table_of(path)
    with opened(
        path,
        entry(offset=at),
        entry(offset=at, entries=3, flags=3, bits=9, name=b"\xff" * 1023),
        entry(offset=at, flags=4, name=b"later", extra=b"what it may be"),
    ) as subject:
        first, second, third = subject.bitmaps()
    assert (first.name, first.kind, first.granularity, first.in_use, first.auto) == ("backup", 1, CLUSTER, False, False)
    assert (first.table_offset, first.table_entries) == (at, 1)
    assert (second.granularity, second.in_use, second.auto, second.table_entries) == (512, True, True, 3)
    assert (third.name, third.extra) == ("later", b"what it may be")


def test_bitmaps_that_a_writer_did_not_know_are_none(path: pathlib.Path) -> None:
    with opened(path, entry(offset=table_of(path)), noted=False) as subject:
        assert subject.bitmaps() == ()


def test_impossible_directories_are_refused(path: pathlib.Path) -> None:
    at = table_of(path)
    whole = entry(offset=at)
    for entries, problem in (
        ([entry(offset=at, flags=8)], "unknown flags"),
        ([entry(offset=at, kind=2)], "unknown type 2"),
        ([entry(offset=at, bits=64)], "granularity"),
        ([entry(offset=at, name=b"")], "name of 0 bytes"),
        ([entry(offset=at, name=b"n" * 1024)], "name of 1024 bytes"),
        ([entry(offset=at, extra=b"unknown")], "unknown extra data"),
        ([entry(offset=at, entries=0)], "0 table entries"),
        ([entry(offset=at, entries=1 << 28)], "table entries"),
        ([entry(offset=at, entries=1 << 20)], "past the end"),
        ([entry(offset=(1 << 64) - CLUSTER)], "past the end"),
        ([entry(offset=at + 8)], "misaligned"),
        ([entry(offset=0)], "misaligned"),
        ([whole, whole], "the name of another"),
        ([whole[:-8]], "bitmap 0 reaches past"),
        ([whole, whole[:-8] + bytes(16)], "entries of"),
    ):
        if problem == "entries of":
            entries[1] = entry(offset=at, name=b"other") + bytes(8)
        with opened(path, *entries) as subject, pytest.raises(errors.ImageRefused, match=problem):
            subject.bitmaps()


def test_a_bitmap_shorter_than_the_disk_is_refused_unless_it_was_in_use(path: pathlib.Path) -> None:
    create.create(path.with_name("large"), size_bytes=units.TIB)
    large = path.with_name("large")
    with large.open("r+b") as file:
        file.truncate(units.round_up(large.stat().st_size, CLUSTER) + 2 * CLUSTER)
    at = table_of(large)
    with opened(large, entry(offset=at)) as subject, pytest.raises(errors.ImageRefused, match="too short"):
        subject.bitmaps()
    with opened(large, entry(offset=at, flags=1)) as subject:
        assert subject.bitmaps()[0].in_use
