"""Random sequences of changes, held against a plain bytearray and against QEMU, over every option that images have."""

import dataclasses
import itertools
import pathlib
import random
from typing import Any

import numpy as np
import pytest

from snapd import units
from snapd.qcow2.checking import check
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, writer

Qemu = Any  # the fixture's class, which tests can't import


class Disk:
    """An image that is changed at random, beside the bytes that it must read as."""

    def __init__(self, path: pathlib.Path, below: chain.Chain | None, seed: int) -> None:
        self.path = path
        self.below = below
        self.random = random.Random(seed)
        self.words = [self.random.randbytes(40) for _ in range(9)]
        self.writer = writer.Writer.open(path, below)
        self.model = bytearray(self.writer.size_bytes)
        if below is not None:
            visible = min(len(self.model), below.size_bytes)
            below.read_into(0, memoryview(self.model)[:visible])

    def range(self, granule: int, longest: int) -> tuple[int, int]:
        size = len(self.model)
        offset = self.random.randrange(0, size, granule)
        return offset, min(size - offset, self.random.randrange(granule, longest + granule, granule))

    def step(self) -> None:
        """Make one change, or bring the earlier ones to disk."""
        weights = {
            self.write: 10,
            self.compress: 5,
            self.zero: 4,
            self.discard: 2,
            self.copy: 3,
            self.resize: 1,
            self.writer.flush: 2,
            self.reopen: 1,
        }
        self.random.choices(tuple(weights), tuple(weights.values()))[0]()

    def write(self) -> None:
        cluster = self.writer.cluster_size
        offset, length = self.range(512, self.random.choice((4096, 3 * cluster, 20 * cluster)))
        data = self.random.randbytes(length)
        self.writer.write(offset, data)
        self.model[offset : offset + length] = data

    def compress(self) -> None:
        cluster = self.writer.cluster_size
        offset, length = self.range(cluster, 20 * cluster)
        text = b"".join(self.random.choices(self.words, k=length // 40 + 1))[:length]
        # Some clusters get shorter, some don't, some are empty.
        data = self.random.choice(
            (text, text[: length // 2] + self.random.randbytes(length - length // 2), bytes(length))
        )
        self.writer.write_compressed(offset, data)
        self.model[offset : offset + length] = data

    def zero(self) -> None:
        offset, length = self.range(512, self.random.choice((4096, 6 * self.writer.cluster_size)))
        self.writer.write_zeroes(offset, length)
        self.model[offset : offset + length] = bytes(length)

    def discard(self) -> None:
        offset, length = self.range(self.writer.cluster_size, 6 * self.writer.cluster_size)
        self.writer.discard(offset, length)
        self.model[offset : offset + length] = bytes(length)

    def copy(self) -> None:
        """Take extents of another file that lie in it in another order."""
        cluster = self.writer.cluster_size
        offset, length = self.range(cluster, 6 * cluster)
        data = self.random.randbytes(length)
        starts = np.arange(offset, offset + length, cluster, dtype=np.int64)
        lengths = np.minimum(cluster, offset + length - starts)
        places = list(range(len(starts)))
        self.random.shuffle(places)
        hosts = 512 + np.array(places, np.int64) * cluster
        source = bytearray(512 + len(starts) * cluster)
        for start, host, count in zip(starts.tolist(), hosts.tolist(), lengths.tolist(), strict=True):
            source[host : host + count] = data[start - offset : start - offset + count]
        path = self.path.with_suffix(".source")
        path.write_bytes(source)
        with path.open("rb") as file:
            self.writer.copy_extents(file.fileno(), starts, lengths, hosts)
        self.model[offset : offset + length] = data

    def resize(self) -> None:
        size = max(512, len(self.model) + self.random.randrange(-600, 600) * 512)
        self.writer.resize(size, force=True)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def reopen(self) -> None:
        self.writer.close()
        self.writer = writer.Writer.open(self.path, self.below)

    def content(self) -> bytes:
        """Return what our own reader sees after the writer has closed."""
        with image.Image.open(self.path) as top:
            view = chain.Chain([top, *(self.below.images if self.below else ())])
            buffer = bytearray(view.size_bytes)
            view.read_into(0, memoryview(buffer))
            return bytes(buffer)

    def assert_right(self, qemu: Qemu) -> None:
        """Close the writer, and require that everybody reads what was written."""
        self.writer.close()
        assert self.content() == self.model
        assert qemu.content(self.path) == self.model
        qemu.assert_clean(self.path)
        assert check.check(self.path).clean


@dataclasses.dataclass(frozen=True)
class Options:
    """What images of one chain are made with."""

    version: int
    cluster_size: int
    refcount_bits: int
    compression: str
    extended_l2: bool
    depth: int

    def exist(self) -> bool:
        """Say whether the format has the combination."""
        if self.version == 2 and (self.refcount_bits != 16 or self.compression != "deflate" or self.extended_l2):
            return False
        return not self.extended_l2 or self.cluster_size >= 16384

    def pairs(self) -> set[tuple[tuple[str, object], tuple[str, object]]]:
        """Return the pairs of choices that are in it."""
        return set(itertools.combinations(dataclasses.asdict(self).items(), 2))

    def __str__(self) -> str:
        return "-".join(str(value) for value in dataclasses.astuple(self))


CHOICES = (
    (2, 3),
    (512, 4096, 16384, 65536, 2 * units.MIB),
    (1, 2, 4, 8, 16, 32, 64),
    ("deflate", "zstd"),
    (False, True),
    (1, 2, 3),
)
ALL = [options for values in itertools.product(*CHOICES) if (options := Options(*values)).exist()]


def covering(candidates: list[Options]) -> list[Options]:
    """Return some in which every pair of choices comes that any of them has."""
    missing = set().union(*(options.pairs() for options in candidates))
    chosen = []
    while missing:
        best = max(candidates, key=lambda options: len(options.pairs() & missing))
        chosen.append(best)
        missing -= best.pairs()
    return chosen


def change_a_chain(folder: pathlib.Path, qemu: Qemu, options: Options, seed: int, steps: int) -> None:
    """Make a chain, change each image of it at random, and hold each against its model."""
    chance = random.Random(seed)
    whole = 5 * units.MIB if options.cluster_size > units.MIB else units.MIB // 2
    opened: list[image.Image] = []
    for number in range(options.depth):
        path = folder / f"{number}.qcow2"
        create.create(
            path,
            size_bytes=whole + 512 * chance.randrange(-100, 100),
            cluster_size=options.cluster_size,
            version=options.version,
            refcount_bits=options.refcount_bits,
            compression=options.compression,
            extended_l2=options.extended_l2,
            backing_name=f"{number - 1}.qcow2" if number else None,
        )
        disk = Disk(path, chain.Chain(opened) if opened else None, chance.randrange(1 << 32))
        for _ in range(steps):
            disk.step()
        disk.assert_right(qemu)
        opened.insert(0, image.Image.open(path))
    for each in opened:
        each.close()


@pytest.mark.parametrize("options", covering(ALL), ids=str)
def test_any_sequence_of_changes_reads_as_a_plain_array_would(
    tmp_path: pathlib.Path, qemu: Qemu, options: Options
) -> None:
    change_a_chain(tmp_path, qemu, options, seed=7, steps=25)


@pytest.mark.torture
@pytest.mark.parametrize("options", ALL, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_changes_to_any_image_reads_as_a_plain_array_would(
    tmp_path: pathlib.Path, qemu: Qemu, options: Options, seed: int
) -> None:
    change_a_chain(tmp_path, qemu, options, seed, steps=60)


@pytest.mark.parametrize("kind", ["version-2", "version-2-overlay", "compressed", "preallocated", "extended"])
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
    elif kind == "extended":
        qemu.create(path, size, backing="bottom.qcow2", cluster_size=max(16384, cluster_size), extended_l2="on")
        qemu.io(path, "write -P 3 5k 1k", "write -P 4 300k 200k", "write -z 610k 3k", "discard 700k 200k")
    else:
        backing = "bottom.qcow2" if kind == "version-2-overlay" else None
        qemu.create(path, size, backing=backing, cluster_size=cluster_size, compat="0.10")
    if kind in ("version-2-overlay", "extended"):
        below = chain.Chain([image.Image.open(tmp_path / "bottom.qcow2")])
    before = qemu.content(path)
    disk = Disk(path, below, seed=cluster_size)
    disk.model[:] = before
    for _ in range(40):
        disk.step()
    disk.assert_right(qemu)
    for opened in below.images if below else ():
        opened.close()
