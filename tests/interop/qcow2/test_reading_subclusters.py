"""Images with extended L2 entries that QEMU wrote, read to the byte."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from snapd import blockmap, errors, units
from snapd.qcow2.format import layout
from snapd.qcow2.reading import image

Qemu = Any  # the fixture's class, which tests can't import

SIZE = 12 * units.MIB + 7 * 512


@pytest.mark.parametrize("cluster_size", [16384, 65536, 2 * units.MIB])
def test_scattered_writes_are_read_to_the_byte(
    tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes], cluster_size: int
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, extended_l2="on", cluster_size=cluster_size)
    qemu.scatter(path, seed=cluster_size)
    assert read_whole(path) == qemu.content(path)


def test_subclusters_show_what_lies_below_and_beside_compressed_clusters(
    tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes]
) -> None:
    qemu.create(tmp_path / "bottom", SIZE)
    qemu.io(tmp_path / "bottom", f"write -P 1 0 {SIZE}")
    backing = "bottom"
    for number, name in enumerate(("middle", "top")):
        path = tmp_path / name
        qemu.create(path, SIZE, extended_l2="on", backing=backing)
        for cluster in range(3, 150, 7):
            qemu.io(path, f"write -c -P {cluster + number} {cluster * 65536} 65536")
        qemu.scatter(path, seed=number)
        backing = name
    assert read_whole(*(tmp_path / name for name in ("top", "middle", "bottom"))) == qemu.content(tmp_path / "top")


def test_the_block_map_says_what_qemu_img_map_says(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, extended_l2="on")
    qemu.scatter(path, seed=5)
    wanted = [
        (item["start"], item["length"], item["offset"])
        for item in json.loads(qemu.img("map", "--output=json", path))
        if item["data"]
    ]
    with image.Image.open(path) as opened:
        found = opened.block_map(0, SIZE)
    data = found.take(found.kind == blockmap.Kind.DATA)
    assert list(zip(data.start.tolist(), data.length.tolist(), data.host.tolist(), strict=True)) == wanted
    assert any(length % 65536 for _, length, _ in wanted[:-1])


def test_a_contradiction_between_subclusters_is_damage_and_never_zeros(
    tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes]
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, extended_l2="on")
    qemu.io(path, "write -P 7 2k 2k")
    with image.Image.open(path) as opened:
        l1, _ = opened.l1_and_metadata()
        table = int(l1[0]) & layout.OFFSET_MASK
    with path.open("r+b") as file:
        file.seek(table + 8)
        file.write((1 << 33 | 1 << 1).to_bytes(8))
    with pytest.raises(errors.Corrupt, match="subclusters 0x0000000200000002 of cluster 0"):
        read_whole(path)


def test_preallocated_extended_images_read_as_zeros(
    tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes]
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, extended_l2="on", preallocation="metadata")
    assert read_whole(path) == bytes(SIZE)
