"""Folds keep what the guest sees, whatever the sizes, and QEMU agrees."""

import pathlib
import random
from typing import Any

import pytest

from snapd import fsops, units
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, fold, writer

Qemu = Any  # the fixture's class, which tests can't import

SMALL = 3 * units.MIB + 512
LARGE = 5 * units.MIB + 1536


def fill(path: pathlib.Path, seed: int, below: chain.Chain | None) -> None:
    """Write, zero and discard at random."""
    chance = random.Random(seed)
    with writer.Writer.open(path, below) as target:
        for _ in range(20):
            offset = chance.randrange(0, target.size_bytes, 512)
            length = min(target.size_bytes - offset, chance.randrange(512, 400 * units.KIB, 512))
            if chance.random() < 0.7:
                target.write(offset, chance.randbytes(length))
            else:
                target.write_zeroes(offset, length)


def make_chain(folder: pathlib.Path, sizes: tuple[int, ...], cluster_sizes: tuple[int, ...], seed: int) -> None:
    """Make a chain 0 (the bottom), 1, 2 … in a folder; a negative cluster size means extended L2 entries."""
    opened: list[image.Image] = []
    for number, (size, cluster_size) in enumerate(zip(sizes, cluster_sizes, strict=True)):
        backing = str(number - 1) if number else None
        create.create(
            folder / str(number),
            size_bytes=size,
            cluster_size=abs(cluster_size),
            extended_l2=cluster_size < 0,
            backing_name=backing,
        )
        fill(folder / str(number), seed + number, chain.Chain(opened) if opened else None)
        opened.insert(0, image.Image.open(folder / str(number)))
    for each in opened:
        each.close()


def content(folder: pathlib.Path, *names: str) -> bytes:
    """Return what a chain, given from the top, reads as."""
    images = [image.Image.open(folder / name) for name in names]
    view = chain.Chain(images)
    buffer = bytearray(view.size_bytes)
    view.read_into(0, memoryview(buffer))
    for opened in images:
        opened.close()
    return bytes(buffer)


SIZES = [
    (SMALL, SMALL, SMALL),
    (LARGE, SMALL, LARGE),
    (LARGE, LARGE, SMALL),
    (SMALL, LARGE, SMALL),
    (SMALL, LARGE, LARGE),
    (LARGE, SMALL, SMALL),
]
CLUSTERS = [
    (65536, 65536, 65536),
    (4096, 65536, 4096),
    (65536, 4096, 65536),
    (65536, 512, 8192),
    (65536, -65536, -16384),
    (-16384, 4096, -65536),
]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("clusters", CLUSTERS)
def test_folding_up_keeps_the_contents(
    tmp_path: pathlib.Path, qemu: Qemu, sizes: tuple[int, ...], clusters: tuple[int, ...]
) -> None:
    make_chain(tmp_path, sizes, clusters, seed=sum(sizes))
    before = content(tmp_path, "2", "1", "0")
    with image.Image.open(tmp_path / "1") as lower, image.Image.open(tmp_path / "0") as bottom:
        copied = fold.fold_up(lower, tmp_path / "2", chain.Chain([bottom]))
        assert copied > 0
        assert content(tmp_path, "2", "1", "0") == before
        assert fold.fold_up(lower, tmp_path / "2", chain.Chain([bottom])) == 0
    create.set_backing_name(tmp_path / "2", "0")
    assert content(tmp_path, "2", "0") == before
    assert qemu.content(tmp_path / "2") == before
    qemu.assert_clean(tmp_path / "2")


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("clusters", CLUSTERS)
def test_folding_down_keeps_the_contents(
    tmp_path: pathlib.Path, qemu: Qemu, sizes: tuple[int, ...], clusters: tuple[int, ...]
) -> None:
    make_chain(tmp_path, sizes, clusters, seed=sum(sizes) + 1)
    before = content(tmp_path, "2", "1", "0")
    with image.Image.open(tmp_path / "2") as child, image.Image.open(tmp_path / "0") as bottom:
        assert fold.fold_down(child, tmp_path / "1", chain.Chain([bottom])) > 0
    assert content(tmp_path, "2", "1", "0") == before
    assert content(tmp_path, "1", "0") == before
    assert qemu.content(tmp_path / "1") == before
    qemu.assert_clean(tmp_path / "1")


def test_folding_up_the_last_layer_leaves_an_image_that_stands_alone(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    make_chain(tmp_path, (LARGE, LARGE), (65536, 65536), seed=5)
    before = content(tmp_path, "1", "0")
    with image.Image.open(tmp_path / "0") as lower:
        fold.fold_up(lower, tmp_path / "1", None)
    create.set_backing_name(tmp_path / "1", None)
    (tmp_path / "0").unlink()
    assert content(tmp_path, "1") == before
    assert qemu.content(tmp_path / "1") == before


def test_compressed_layers_fold(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"".join(number.to_bytes(4) for number in range(units.MIB)))
    qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, tmp_path / "0")
    create.create(tmp_path / "1", size_bytes=4 * units.MIB, backing_name="0")
    with image.Image.open(tmp_path / "0") as lower:
        fill(tmp_path / "1", 9, chain.Chain([lower]))
        before = content(tmp_path, "1", "0")
        fold.fold_up(lower, tmp_path / "1", None)
    create.set_backing_name(tmp_path / "1", None)
    assert content(tmp_path, "1") == before == qemu.content(tmp_path / "1")


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("clusters", [(65536, 65536, 65536), (65536, -65536, -16384)])
def test_a_fold_that_was_killed_anywhere_is_run_again(
    tmp_path: pathlib.Path, qemu: Qemu, clusters: tuple[int, ...], direction: str
) -> None:
    class Killed(BaseException):
        """The process ended here."""

    def run() -> None:
        with image.Image.open(tmp_path / "0") as bottom:
            beneath = chain.Chain([bottom])
            if direction == "up":
                with image.Image.open(tmp_path / "1") as lower:
                    fold.fold_up(lower, tmp_path / "2", beneath)
            else:
                with image.Image.open(tmp_path / "2") as child:
                    fold.fold_down(child, tmp_path / "1", beneath)

    make_chain(tmp_path, (LARGE, SMALL, LARGE), clusters, seed=21)
    before = content(tmp_path, "2", "1", "0")
    strike = 1
    while True:
        left = [strike]

        def observer(_: fsops.Operation, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        fsops.observe(observer)
        try:
            run()
        except Killed:
            pass
        else:
            break
        finally:
            fsops.observe(None)
        assert content(tmp_path, "2", "1", "0") == before
        strike += 7
    survivor = "2" if direction == "up" else "1"
    create.set_backing_name(tmp_path / survivor, "0")
    assert content(tmp_path, survivor, "0") == before == qemu.content(tmp_path / survivor)
    assert qemu.check(tmp_path / survivor).get("corruptions", 0) == 0
