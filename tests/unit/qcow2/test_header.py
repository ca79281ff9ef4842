import os
import pathlib
import struct

import pytest

from snapd import errors, units
from snapd.qcow2 import create, header, image, layout

SIZE = 4 * units.MIB


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a sound image whose parts the tests break."""
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=SIZE)
    return path


def patch(path: pathlib.Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def extension(magic: int, data: bytes) -> bytes:
    return struct.pack(">II", magic, len(data)) + data.ljust(units.round_up(len(data), 8), b"\0")


def u32(value: int) -> bytes:
    return value.to_bytes(4)


def u64(value: int) -> bytes:
    return value.to_bytes(8)


def test_what_create_wrote_is_what_open_reads(tmp_path: pathlib.Path) -> None:
    point = (header.POINT_EXTENSION, bytes(range(256)) * 16)
    create.create(
        tmp_path / "new", size_bytes=SIZE, cluster_size=16384, backing_name="../ab/bäse.qcow2", extensions=[point]
    )
    with image.Image.open(tmp_path / "new") as opened:
        assert opened.size_bytes == SIZE
        assert opened.cluster_size == 16384
        assert opened.header.version == 3
        assert opened.header.backing_name == "../ab/bäse.qcow2"
        assert opened.header.backing_format == "qcow2"
        assert opened.header.extension(header.POINT_EXTENSION) == point[1]
        assert opened.header.extension(1) is None


@pytest.mark.parametrize(
    ("offset", "data", "problem"),
    [
        (0, b"QFI\0", "magic"),
        (4, u32(0), "version 0"),
        (4, u32(1), "version 1"),
        (4, u32(4), "version 4"),
        (16, u32(7), "backing name without an offset"),
        (8, u64(70_000) + u32(4), "outside"),
        (8, u64(8) + u32(4), "outside"),
        (8, u64(2**64 - 1) + u32(4), "outside"),
        (8, u64(512) + u32(1024), "1024 bytes"),
        (8, u64(512) + u32(4), "control"),
        (20, u32(8), "cluster bits 8"),
        (20, u32(22), "cluster bits 22"),
        (20, u32(2**32 - 1), "cluster bits"),
        (24, u64(SIZE * 2**20), "more than its L1 table maps"),
        (24, u64(2**63), "more than its L1 table maps"),
        (24, u64(2**64 - 512), "more than its L1 table maps"),
        (24, u64(SIZE + 1), "whole sectors"),
        (32, u32(1), "encryption method 1"),
        (32, u32(2), "encryption method 2"),
        (32, u32(99), "encryption method 99"),
        (36, u32(0), "more than its L1 table maps"),
        (36, u32(2**23), "L1 table"),
        (40, u64(0), "L1 table"),
        (40, u64(65537), "misaligned"),
        (40, u64(2**40), "past the end"),
        (40, u64(2**64 - 65536), "past the end"),
        (40, u64(65536), "overlaps"),
        (48, u64(65536 + 512), "misaligned"),
        (48, u64(2**50), "past the end"),
        (56, u32(0), "refcount table"),
        (56, u32(129), "refcount table"),
        (60, u32(65537), "internal snapshots"),
        (60, u32(1) + u64(65536 + 8), "misaligned"),
        (60, u32(65536) + u64(196608), "past the end"),
        (72, u64(1 << 2), "another file"),
        (72, u64(1 << 3), "compression type"),
        (72, u64(1 << 4), "extended L2"),
        (72, u64(1 << 5), "incompatible"),
        (72, u64(1 << 63), "incompatible"),
        (96, u32(7), "refcount order 7"),
        (100, u32(72), "header length"),
        (100, u32(105), "header length"),
        (100, u32(65536 + 8), "header length"),
        (104, b"\1", "compression type"),
        (104, b"\7", "compression type 7"),
        (112, struct.pack(">II", 0x1234, 0x7FFFFFFF), "runs past"),
        (112, extension(5, b"one") + extension(5, b"two"), "twice"),
        (112, b"".join(extension(magic, b"") for magic in range(1, 80)), "more than 64"),
        (112, extension(layout.EXTENSION_BACKING_FORMAT, b"q" * 16), "long"),
        (112, extension(layout.EXTENSION_BACKING_FORMAT, b"q\n"), "strange"),
        (112, extension(layout.EXTENSION_DATA_FILE, b"json:{}"), "data file"),
        (112, extension(layout.EXTENSION_ENCRYPTION, bytes(16)), "encryption"),
        (112, extension(layout.EXTENSION_BITMAPS, bytes(24)), "0 bitmaps"),
        (112, extension(layout.EXTENSION_BITMAPS, struct.pack(">IIQQ", 1, 1, 8, 65536)), "reserved"),
        (112, extension(layout.EXTENSION_BITMAPS, struct.pack(">IIQQ", 1, 0, 2**40, 65536)), "directory"),
        (112, extension(layout.EXTENSION_BITMAPS, struct.pack(">IIQQ", 1, 0, 8, 65537)), "misaligned"),
    ],
)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(
    path: pathlib.Path, offset: int, data: bytes, problem: str
) -> None:
    patch(path, offset, data)
    with pytest.raises(errors.ImageRefused, match=problem):
        image.Image.open(path)


@pytest.mark.parametrize("name", [b"a\0b", b"a\nb", b"\xff\xfe", b"\x1b[2J"])
def test_a_backing_name_with_anything_but_printable_text_is_refused(path: pathlib.Path, name: bytes) -> None:
    patch(path, 512, name)
    patch(path, 8, u64(512) + u32(len(name)))
    with pytest.raises(errors.ImageRefused):
        image.Image.open(path)


@pytest.mark.parametrize("length", [0, 3, 71, 100])
def test_a_file_that_is_too_short_for_a_header_is_refused(path: pathlib.Path, length: int) -> None:
    os.truncate(path, length)
    with pytest.raises(errors.ImageRefused):
        image.Image.open(path)


def test_a_link_a_folder_and_a_fifo_are_refused_without_waiting(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "."):
        with pytest.raises(errors.ImageRefused, match="regular file"):
            image.Image.open(tmp_path / name)


def test_a_file_that_is_not_there_is_a_failure_of_storage(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.StorageFailed):
        image.Image.open(tmp_path / "nothing")


def test_a_header_longer_than_its_cluster_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ImageRefused, match="clusters of 512"):
        create.create(tmp_path / "new", size_bytes=SIZE, cluster_size=512, extensions=[(7, bytes(600))])
