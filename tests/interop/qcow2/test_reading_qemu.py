"""Images that QEMU wrote, read to the byte."""

import json
import pathlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from snapd import blockmap, errors, units
from snapd.qcow2.checking import check, vet
from snapd.qcow2.format import header
from snapd.qcow2.reading import image
from snapd.qcow2.writing import create

Qemu = Any  # the fixture's class, which tests can't import

SIZE = 12 * units.MIB + 7 * 512


def scattered_writes(seed: int, size: int) -> list[str]:
    """Return qemu-io commands that write, zero and discard here and there."""
    chance = random.Random(seed)
    commands = []
    for _ in range(60):
        length = chance.randrange(512, 300 * units.KIB, 512)
        offset = chance.randrange(0, size - length, 512)
        pattern = chance.randrange(1, 256)
        kind = chance.choices((f"write -P {pattern}", "write -z", "write -z -u", "discard"), (8, 2, 1, 1))[0]
        commands.append(f"{kind} {offset} {length}")
    return commands


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("cluster_size", [512, 4096, 65536, 2 * units.MIB])
def test_scattered_writes_are_read_to_the_byte(
    tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes], compat: str, cluster_size: int
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, compat=compat, cluster_size=cluster_size)
    qemu.io(path, *scattered_writes(seed=cluster_size, size=SIZE))
    assert read_whole(path) == qemu.content(path)


@pytest.mark.parametrize("refcount_bits", [1, 2, 8, 32, 64])
def test_every_refcount_width_is_read(
    tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes], refcount_bits: int
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, refcount_bits=refcount_bits)
    qemu.io(path, "write -P 5 100k 300k")
    assert read_whole(path) == qemu.content(path)


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster_size", [512, 4096, 65536, 2 * units.MIB])
def test_compressed_clusters_are_read_to_the_byte(
    tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes], compression: str, cluster_size: int
) -> None:
    chance = random.Random(7)
    raw = tmp_path / "disk.raw"
    words = [chance.randbytes(90) for _ in range(20)]
    text = b"".join(chance.choice(words) for _ in range(SIZE // 90 + 1))[: SIZE - units.MIB]
    raw.write_bytes(text + chance.randbytes(units.MIB))
    path = tmp_path / "disk.qcow2"
    options = f"compression_type={compression},cluster_size={cluster_size}"
    qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    with image.Image.open(path) as opened:
        extents = opened.block_map(0, SIZE)
        assert extents.total(blockmap.Kind.COMPRESSED) > SIZE // 2
    assert read_whole(path) == raw.read_bytes()
    assert check.check(path).clean


@pytest.mark.parametrize("preallocation", ["metadata", "falloc"])
def test_preallocated_images_map_as_data(
    tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes], preallocation: str
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, preallocation=preallocation)
    with image.Image.open(path) as opened:
        assert opened.block_map(0, SIZE).total() == SIZE
    assert read_whole(path) == bytes(SIZE)


def test_a_chain_of_different_sizes_reads_as_qemu_reads_it(
    tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes]
) -> None:
    sizes = {"bottom": SIZE, "middle": 8 * units.MIB + 512, "top": SIZE + 5 * units.MIB}
    backing = None
    for number, (name, size) in enumerate(sizes.items()):
        qemu.create(tmp_path / name, size, backing=backing, cluster_size=4096 << number)
        qemu.io(tmp_path / name, *scattered_writes(seed=number, size=size)[:25])
        backing = name
    assert read_whole(*(tmp_path / name for name in ("top", "middle", "bottom"))) == qemu.content(tmp_path / "top")


@pytest.mark.parametrize("cluster_size", [512, 65536])
def test_the_block_map_says_what_qemu_img_map_says(tmp_path: pathlib.Path, qemu: Qemu, cluster_size: int) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, cluster_size=cluster_size)
    qemu.io(path, *scattered_writes(seed=3, size=SIZE))
    wanted: list[tuple[int, int, int, int]] = []
    for item in json.loads(qemu.img("map", "--output=json", path)):
        kind = blockmap.Kind.DATA if item["data"] else blockmap.Kind.ZERO
        row = (item["start"], item["length"], int(kind), item["offset"] if item["data"] else -1)
        if not item["present"]:
            continue
        if wanted and kind == wanted[-1][2] == blockmap.Kind.ZERO and row[0] == sum(wanted[-1][:2]):
            # QEMU keeps zeros with a place in the file apart from those without.
            row = (wanted[-1][0], wanted.pop()[1] + row[1], int(kind), -1)
        wanted.append(row)
    with image.Image.open(path) as opened:
        found = opened.block_map(0, SIZE)
        parts = [opened.block_map(start, 64 * units.KIB) for start in range(0, SIZE, 64 * units.KIB)]
    columns = (found.start, found.length, found.kind, found.host)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == wanted
    assert sum(part.total() for part in parts) == found.total()


def test_checks_count_what_qemu_img_check_counts(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, cluster_size=4096)
    qemu.io(path, *scattered_writes(seed=11, size=SIZE))
    wanted = qemu.check(path)
    found = check.check(path)
    assert found.clean
    assert found.allocated_clusters == wanted["allocated-clusters"]
    assert found.total_clusters == wanted["total-clusters"]
    assert found.image_end_bytes == wanted["image-end-offset"]


def test_an_import_with_a_backing_file_is_refused(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    qemu.create(tmp_path / "bottom", SIZE)
    qemu.create(tmp_path / "top", SIZE, backing="bottom")
    assert vet.vet_import(tmp_path / "bottom").size_bytes == SIZE
    with pytest.raises(errors.ImageRefused, match="backing file"):
        vet.vet_import(tmp_path / "top")


def test_an_image_that_keeps_its_data_in_another_file_is_refused(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, data_file=str(tmp_path / "data"))
    with pytest.raises(errors.ImageRefused, match="another file"):
        image.Image.open(path)


def test_our_extension_survives_a_rewrite_of_the_header_by_qemu(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    from_us = tmp_path / "ours.qcow2"
    qemu.create(tmp_path / "other", SIZE)
    qemu.create(tmp_path / "third", SIZE)
    extension = (header.POINT_EXTENSION, b"a point" * 50)
    create.create(from_us, size_bytes=SIZE, backing_name="other", extensions=[extension])
    qemu.img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "third", from_us)
    with image.Image.open(from_us) as opened:
        assert opened.header.backing_name == "third"
        assert opened.header.extension(header.POINT_EXTENSION) == b"a point" * 50
