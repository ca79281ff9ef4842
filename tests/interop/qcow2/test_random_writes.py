"""Random sequences of changes, held against a plain bytearray and against QEMU."""

import pathlib
import random
from typing import Any

import numpy as np
import pytest

from snapd import units
from snapd.qcow2 import chain, check, create, image, writer

Qemu = Any  # the fixture's class, which tests can't import


class Disk:
    """An image that is changed at random, beside the bytes that it must read as."""

    def __init__(self, path: pathlib.Path, size_bytes: int, below: chain.Chain | None, seed: int) -> None:
        self.path = path
        self.below = below
        self.random = random.Random(seed)
        self.model = bytearray(size_bytes)
        if below is not None:
            visible = min(size_bytes, below.size_bytes)
            below.read_into(0, memoryview(self.model)[:visible])
        self.writer = writer.Writer.open(path, below)

    def range(self, granule: int, longest: int) -> tuple[int, int]:
        size = len(self.model)
        offset = self.random.randrange(0, size, granule)
        return offset, min(size - offset, self.random.randrange(granule, longest + granule, granule))

    def step(self) -> None:
        cluster = self.writer.cluster_size
        action = self.random.choices(("write", "zero", "discard", "flush", "reopen", "copy"), (10, 4, 2, 2, 1, 3))[0]
        if action == "write":
            offset, length = self.range(512, self.random.choice((4096, 3 * cluster, 20 * cluster)))
            data = self.random.randbytes(length)
            self.writer.write(offset, data)
            self.model[offset : offset + length] = data
        elif action == "zero":
            offset, length = self.range(512, 6 * cluster)
            self.writer.write_zeroes(offset, length)
            self.model[offset : offset + length] = bytes(length)
        elif action == "discard":
            offset, length = self.range(cluster, 6 * cluster)
            self.writer.discard(offset, length)
            self.model[offset : offset + length] = bytes(length)
        elif action == "copy":
            self.copy()
        elif action == "flush":
            self.writer.flush()
        else:
            self.writer.close()
            self.writer = writer.Writer.open(self.path, self.below)

    def copy(self) -> None:
        offset, length = self.range(self.writer.cluster_size, 6 * self.writer.cluster_size)
        data = self.random.randbytes(length)
        source = self.path.with_suffix(".source")
        source.write_bytes(b"skipped " * 64 + data)
        with source.open("rb") as file:
            self.writer.copy_extents(
                file.fileno(), np.array([offset], np.int64), np.array([length], np.int64), np.array([512], np.int64)
            )
        self.model[offset : offset + length] = data

    def content(self) -> bytes:
        """Return what our own reader sees after the writer has closed."""
        with image.Image.open(self.path) as top:
            view = chain.Chain([top, *(self.below.images if self.below else ())])
            buffer = bytearray(view.size_bytes)
            view.read_into(0, memoryview(buffer))
            return bytes(buffer)


@pytest.mark.parametrize("cluster_size", [512, 4 * units.KIB, 64 * units.KIB, 2 * units.MIB])
@pytest.mark.parametrize("with_backing", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_changes_reads_as_a_plain_array_would(
    tmp_path: pathlib.Path, qemu: Qemu, cluster_size: int, with_backing: bool, seed: int
) -> None:
    size = {512: units.MIB, 4 * units.KIB: 5 * units.MIB}.get(cluster_size, 24 * units.MIB) + 3 * 512
    bottom = None
    below = None
    if with_backing:
        create.create(tmp_path / "bottom.qcow2", size_bytes=size - 5 * units.KIB, cluster_size=8 * units.KIB)
        with writer.Writer.open(tmp_path / "bottom.qcow2") as filled:
            filled.write(0, random.Random(seed).randbytes(filled.size_bytes // 1024 * 512))
            filled.write(filled.size_bytes - 512, b"\x07" * 512)
        bottom = image.Image.open(tmp_path / "bottom.qcow2")
        below = chain.Chain([bottom])
    path = tmp_path / "top.qcow2"
    create.create(
        path, size_bytes=size, cluster_size=cluster_size, backing_name="bottom.qcow2" if with_backing else None
    )
    disk = Disk(path, size, below, seed)
    for _ in range(60):
        disk.step()
    disk.writer.close()
    assert disk.content() == disk.model
    assert qemu.content(path) == disk.model
    qemu.assert_clean(path)
    assert check.check(path).clean
    if bottom is not None:
        bottom.close()


@pytest.mark.parametrize("kind", ["version-2", "version-2-overlay", "compressed", "preallocated"])
@pytest.mark.parametrize("cluster_size", [512, 4 * units.KIB, 64 * units.KIB])
def test_images_of_qemu_s_are_written_on(tmp_path: pathlib.Path, qemu: Qemu, kind: str, cluster_size: int) -> None:
    size = 3 * units.MIB + 512
    path = tmp_path / "top.qcow2"
    below = None
    raw = tmp_path / "raw"
    raw.write_bytes((bytes(range(256)) * 12 * units.KIB).ljust(size, b"\0"))
    qemu.create(tmp_path / "bottom.qcow2", size - units.MIB)
    qemu.io(tmp_path / "bottom.qcow2", "write -P 7 0 1M", f"write -P 8 1500k {size - units.MIB - 1500 * units.KIB}")
    if kind == "compressed":
        options = f"cluster_size={cluster_size}"
        qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    elif kind == "preallocated":
        qemu.create(path, size, cluster_size=cluster_size, preallocation="metadata")
    else:
        overlay = kind == "version-2-overlay"
        backing = "bottom.qcow2" if overlay else None
        qemu.create(path, size, backing=backing, cluster_size=cluster_size, compat="0.10")
        below = chain.Chain([image.Image.open(tmp_path / "bottom.qcow2")]) if overlay else None
    before = qemu.content(path)
    disk = Disk(path, size, below, seed=cluster_size)
    disk.model[:] = before
    for _ in range(40):
        disk.step()
    disk.writer.close()
    assert disk.content() == disk.model
    assert qemu.content(path) == disk.model
    qemu.assert_clean(path)
    assert check.check(path).clean
    for opened in below.images if below else ():
        opened.close()
