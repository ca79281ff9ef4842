"""Images that QEMU left dirty, damaged or with bitmaps are mended before they are written, or refused."""

import pathlib
import subprocess
from typing import Any

import pytest

from snapd import errors, units
from snapd.qcow2.checking import check, repair
from snapd.qcow2.format import layout
from snapd.qcow2.reading import image
from snapd.qcow2.writing import create, fold, writer

Qemu = Any  # the fixture's class, which tests can't import

SIZE = 8 * units.MIB


def crash(path: pathlib.Path, *commands: str) -> None:
    """Have qemu-io change an image and then abort, so that it stays marked dirty."""
    flags = [part for command in (*commands, "flush", "abort") for part in ("-c", command)]
    done = subprocess.run(["qemu-io", "-f", "qcow2", *flags, str(path)], check=False, capture_output=True)
    assert done.returncode < 0


@pytest.mark.parametrize("refcount_bits", [1, 16, 64])
@pytest.mark.parametrize("cluster_size", [4096, 65536])
def test_a_dirty_image_has_its_refcounts_rebuilt_before_anything_is_written(
    tmp_path: pathlib.Path, qemu: Qemu, cluster_size: int, refcount_bits: int
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, lazy_refcounts="on", cluster_size=cluster_size, refcount_bits=refcount_bits)
    crash(path, "write -P 1 0 1M", "write -P 2 3M 100k", "write -z 512k 64k")
    with image.Image.open(path) as opened:
        assert opened.header.incompatible & layout.INCOMPATIBLE_DIRTY
    assert check.check(path).corruptions > 0
    with writer.Writer.open(path) as target:
        target.write(5 * units.MIB, b"\3" * units.MIB)
    content = qemu.content(path)
    wanted = bytearray(SIZE)
    for byte, offset, length in ((1, 0, 1024), (2, 3072, 100), (0, 512, 64), (3, 5120, 1024)):
        wanted[offset * units.KIB : (offset + length) * units.KIB] = bytes([byte]) * (length * units.KIB)
    assert content == wanted
    with image.Image.open(path) as opened:
        assert not opened.header.incompatible & layout.INCOMPATIBLE_DIRTY
    qemu.assert_clean(path)


def test_a_dirty_image_with_damage_that_cannot_be_mended_is_refused(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, lazy_refcounts="on")
    crash(path, "write -P 1 0 1M")
    with image.Image.open(path) as opened:
        l1, _ = opened.l1_and_metadata()
    with path.open("r+b") as file:
        file.seek(int(l1[0]) & layout.OFFSET_MASK)
        file.write((layout.COPIED | 1 << 50 | 0x10000).to_bytes(8, signed=True))
    with pytest.raises((errors.ImageRefused, errors.Corrupt)):
        writer.Writer.open(path)


def test_a_writer_takes_away_bitmaps_that_it_does_not_keep(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE)
    qemu.img("bitmap", "--add", path, "changes")
    with writer.Writer.open(path) as target:
        target.write(0, b"1" * units.MIB)
        target.resize(2 * SIZE)
    with image.Image.open(path) as opened:
        assert opened.header.autoclear == 0
        assert opened.bitmaps() == ()
    assert qemu.content(path) == (b"1" * units.MIB).ljust(2 * SIZE, b"\0")
    repair.repair_leaks(path)
    qemu.assert_clean(path)


@pytest.mark.parametrize("damaged", ["child", "lower"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_fold_of_a_damaged_file_stops_before_it_writes(tmp_path: pathlib.Path, direction: str, damaged: str) -> None:
    paths = {"lower": tmp_path / "lower", "child": tmp_path / "child"}
    create.create(paths["lower"], size_bytes=SIZE)
    create.create(paths["child"], size_bytes=SIZE, backing_name="lower")
    for path in paths.values():
        with writer.Writer.open(path) as target:
            target.write(0, b"1" * units.MIB)
    with paths[damaged].open("r+b") as file:
        # The refcount of the first data cluster, which an entry refers to.
        file.seek(2 * 65536 + 2 * 5)
        file.write(b"\0\0")
    before = {name: path.read_bytes() for name, path in paths.items()}
    action = fold.fold_up if direction == "up" else fold.fold_down
    kept, other = ("lower", "child") if direction == "up" else ("child", "lower")
    with image.Image.open(paths[kept]) as source, pytest.raises(errors.Corrupt):
        action(source, paths[other], None)
    assert {name: path.read_bytes() for name, path in paths.items()} == before
