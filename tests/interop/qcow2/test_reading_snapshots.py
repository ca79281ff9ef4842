"""Internal snapshots and bitmaps that QEMU made: listed, and snapshots read to the byte."""

import json
import pathlib
from typing import Any

import pytest

from snapd import units
from snapd.qcow2.reading import chain, image

Qemu = Any  # the fixture's class, which tests can't import

SIZE = 12 * units.MIB + 7 * 512


def content(*images: image.Image) -> bytes:
    view = chain.Chain(images)
    buffer = bytearray(view.size_bytes)
    view.read_into(0, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("options", [{}, {"compat": "0.10"}, {"extended_l2": "on"}, {"cluster_size": 512}])
def test_every_snapshot_is_read_to_the_byte(tmp_path: pathlib.Path, qemu: Qemu, options: dict[str, str | int]) -> None:
    qemu.create(tmp_path / "bottom", SIZE)
    qemu.scatter(tmp_path / "bottom", seed=9)
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, backing="bottom", **options)
    # QEMU doesn't resize version 2 images that have snapshots.
    sizes = [SIZE, SIZE, SIZE if "compat" in options else SIZE + 3 * units.MIB]
    for number, size in enumerate(sizes):
        if size != SIZE:
            qemu.img("resize", "-q", "-f", "qcow2", path, str(size))
        qemu.scatter(path, seed=number, count=20)
        qemu.img("snapshot", "-q", "-c", f"snapshot {number}", path)
    qemu.scatter(path, seed=77, count=20)
    with image.Image.open(path) as opened, image.Image.open(tmp_path / "bottom") as bottom:
        assert [each.size_bytes for each in opened.snapshots()] == sizes
        assert content(opened, bottom) == qemu.content(path)
        for number, size in enumerate(sizes):
            with opened.of_snapshot(f"snapshot {number}") as seen:
                found = content(seen, bottom)
            raw = tmp_path / "snapshot.raw"
            qemu.img("convert", "-l", f"snapshot.name=snapshot {number}", "-f", "qcow2", "-O", "raw", path, raw)
            # QEMU writes a snapshot of another size with the size that the disk has now.
            wanted = raw.read_bytes()
            assert found[: len(wanted)] == wanted[:size]


def test_snapshots_are_listed_as_qemu_lists_them(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE)
    for name in ("one", "zwei", "trois"):
        qemu.img("snapshot", "-q", "-c", name, path)
    qemu.img("snapshot", "-q", "-d", "zwei", path)
    wanted = json.loads(qemu.img("info", "-f", "qcow2", "--output=json", path))["snapshots"]
    with image.Image.open(path) as opened:
        found = opened.snapshots()
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine.id, mine.name) == (theirs["id"], theirs["name"])
        assert (mine.date_s, mine.date_ns) == (theirs["date-sec"], theirs["date-nsec"])
        assert mine.vm_state_bytes == theirs["vm-state-size"]
        assert mine.icount == theirs.get("icount")
        assert mine.vm_clock_ns == theirs["vm-clock-sec"] * 10**9 + theirs["vm-clock-nsec"]


def test_bitmaps_are_listed_as_qemu_lists_them(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE)
    with image.Image.open(path) as opened:
        assert opened.bitmaps() == ()
    qemu.img("bitmap", "-f", "qcow2", "--add", "-g", "64k", path, "nightly")
    qemu.img("bitmap", "-f", "qcow2", "--add", "-g", "1M", "--disable", path, "weekly")
    qemu.io(path, "write -P 3 1M 2M")
    wanted = json.loads(qemu.img("info", "-f", "qcow2", "--output=json", path))["format-specific"]["data"]["bitmaps"]
    with image.Image.open(path) as opened:
        found = opened.bitmaps()
        assert opened.block_map(0, SIZE).total() == 2 * units.MIB
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine.name, mine.granularity) == (theirs["name"], theirs["granularity"])
        assert [flag for flag in ("in-use", "auto") if getattr(mine, flag.replace("-", "_"))] == theirs["flags"]
