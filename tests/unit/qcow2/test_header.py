import os
import pathlib
import struct

import pytest

from snapd import errors, units
from snapd.qcow2.checking import vet
from snapd.qcow2.format import header, layout
from snapd.qcow2.reading import image
from snapd.qcow2.writing import create

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
        (16, u32(7), "7 bytes without an offset"),
        (8, u64(70_000) + u32(4), "past the header's cluster"),
        (8, u64(65_535) + u32(2), "past the header's cluster"),
        (8, u64(2**64 - 1) + u32(4), "past the header's cluster"),
        (8, u64(8) + u32(4), "within the fixed part of the header"),
        (8, u64(512) + u32(0), "backing name of 0 bytes"),
        (8, u64(512) + u32(1024), "backing name of 1024 bytes"),
        (8, u64(512) + u32(4), "zero byte in the backing name"),
        (20, u32(8), "clusters of 2.8 bytes"),
        (20, u32(22), "clusters of 2.22 bytes"),
        (20, u32(2**32 - 1), "clusters of 2.4294967295 bytes"),
        (24, u64(SIZE * 2**20), "more than its L1 table of 1 entries maps"),
        (24, u64(2**63), "more than its L1 table of 1 entries maps"),
        (24, u64(2**64 - 512), "more than its L1 table of 1 entries maps"),
        (24, u64(SIZE + 1), "not whole sectors"),
        (32, u32(1), "encrypted, by method 1"),
        (32, u32(2), "encrypted, by method 2"),
        (32, u32(99), "encrypted, by method 99"),
        (36, u32(0), "more than its L1 table of 0 entries maps"),
        (36, u32(2**22 + 1), "an L1 table of 4194305 entries"),
        (36, u32(2**22), "the L1 table reaches past the end"),
        (40, u64(0), "the L1 table lies in the header's cluster"),
        (40, u64(65537), "the L1 table is misaligned: it begins at offset 65537"),
        (40, u64(2**40), "the L1 table reaches past the end"),
        (40, u64(2**64 - 65536), "the L1 table reaches past the end"),
        (40, u64(65536), "overlaps"),
        (48, u64(0), "the refcount table lies in the header's cluster"),
        (48, u64(65536 + 512), "the refcount table is misaligned"),
        (48, u64(2**50), "the refcount table reaches past the end"),
        (48, u64(3 * 65536), "the refcount table (reaches past the end|overlaps)"),
        (56, u32(0), "a refcount table of 0 clusters"),
        (56, u32(129), "a refcount table of 129 clusters"),
        (56, u32(3), "the refcount table (reaches past the end|overlaps)"),
        (60, u32(65537), "65537 internal snapshots"),
        (60, u32(1) + u64(0), "the snapshot table lies in the header's cluster"),
        (60, u32(1) + u64(65536 + 8), "the snapshot table is misaligned"),
        (60, u32(1) + u64(65536), "overlaps the"),
        (60, u32(65536) + u64(196608), "the snapshot table reaches past the end"),
        (72, u64(1 << 2), "data in another file"),
        (72, u64(1 << 3), "compression type contradicts"),
        (72, u64(1 << 5), "incompatible bits 0x20"),
        (72, u64(1 << 63), "incompatible bits 0x8000000000000000"),
        (96, u32(7), "refcount order 7"),
        (100, u32(72), "header length of 72"),
        (100, u32(105), "header length of 105"),
        (100, u32(65536 + 8), "header length of 65544"),
        (104, b"\1", "compression type contradicts"),
        (104, b"\7", "compression type 7"),
        (112, struct.pack(">II", 0x1234, 0x7FFFFFFF), "runs past"),
        (112, extension(5, b"one") + extension(5, b"two"), "extension 0x5 comes twice"),
        (112, b"".join(extension(magic, b"") for magic in range(1, 80)), "more than 64 header extensions"),
        (112, extension(5, b"") * 8_177, "extension 0x5 comes twice"),
        (112, extension(layout.EXTENSION_BACKING_FORMAT, b"q" * 16), "backing format name of 16 bytes"),
        (112, extension(layout.EXTENSION_BACKING_FORMAT, b"q\n"), "strange characters"),
        (112, extension(layout.EXTENSION_DATA_FILE, b"json:{}"), "names a data file"),
        (112, extension(layout.EXTENSION_ENCRYPTION, bytes(16)), "encryption header"),
        (112, extension(layout.EXTENSION_BITMAPS, bytes(23)), "bitmaps extension of 23 bytes"),
    ],
)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(
    path: pathlib.Path, offset: int, data: bytes, problem: str
) -> None:
    patch(path, offset, data)
    with pytest.raises(errors.ImageRefused, match=problem):
        image.Image.open(path)


BITMAPS = [
    (0, 0, 24, 196608, "0 bitmaps"),
    (65_536, 0, 2**24, 196608, "65536 bitmaps"),
    (1, 1, 24, 196608, "1 in a reserved field"),
    (1, 0, 2**40, 196608, "bitmap directory of 1099511627776 bytes for 1 bitmaps"),
    (2, 0, 47, 196608, "bitmap directory of 47 bytes for 2 bitmaps"),
    (1, 0, 24, 196609, "bitmap directory is misaligned"),
    (1, 0, 24, 0, "bitmap directory lies in the header"),
    (1, 0, 24, 2**50, "bitmap directory reaches past the end"),
    (1, 0, 24, 65536, "overlaps the"),
]


@pytest.mark.parametrize(("count", "reserved", "size", "offset", "problem"), BITMAPS)
def test_a_directory_of_bitmaps_that_cannot_be_is_refused(
    path: pathlib.Path, count: int, reserved: int, size: int, offset: int, problem: str
) -> None:
    patch(path, 112, extension(layout.EXTENSION_BITMAPS, struct.pack(">IIQQ", count, reserved, size, offset)))
    patch(path, layout.AUTOCLEAR_AT, u64(layout.AUTOCLEAR_BITMAPS))
    with pytest.raises(errors.ImageRefused, match=problem):
        image.Image.open(path)


@pytest.mark.parametrize(("count", "reserved", "size", "offset", "problem"), BITMAPS)
def test_a_directory_of_bitmaps_that_is_out_of_date_means_nothing(
    path: pathlib.Path, count: int, reserved: int, size: int, offset: int, problem: str
) -> None:
    assert problem
    patch(path, 112, extension(layout.EXTENSION_BITMAPS, struct.pack(">IIQQ", count, reserved, size, offset)))
    with image.Image.open(path) as opened:
        assert opened.header.bitmaps == (0, 0, 0)


def test_extended_l2_entries_need_large_clusters_and_twice_the_l1_table(tmp_path: pathlib.Path) -> None:
    create.create(tmp_path / "small", size_bytes=SIZE, cluster_size=4096)
    patch(tmp_path / "small", 72, u64(layout.INCOMPATIBLE_EXTENDED_L2))
    with pytest.raises(errors.ImageRefused, match="extended L2 entries with clusters of 4096 bytes"):
        image.Image.open(tmp_path / "small")
    create.create(tmp_path / "large", size_bytes=units.GIB)
    patch(tmp_path / "large", 72, u64(layout.INCOMPATIBLE_EXTENDED_L2))
    with pytest.raises(errors.ImageRefused, match="L1 table of 2 entries"):
        image.Image.open(tmp_path / "large")


@pytest.mark.parametrize(
    "name", [b"/etc/passwd", b"json:{}", b"nbd:localhost:10809", b"http://host/disk", b"../../x", b"base.qcow2"]
)
def test_a_backing_name_is_read_whatever_it_points_at_and_an_import_with_one_is_refused(
    path: pathlib.Path, name: bytes
) -> None:
    patch(path, 512, name)
    patch(path, 8, u64(512) + u32(len(name)))
    with image.Image.open(path) as opened:
        assert opened.header.backing_name == name.decode()
    with pytest.raises(errors.ImageRefused, match="backing file"):
        vet.vet_import(path)


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
