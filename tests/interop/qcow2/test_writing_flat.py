"""Flattened chains read as the chains did, stand alone, and are as small as QEMU makes them."""

import pathlib
import random
from typing import Any

import pytest

from snapd import errors, fsops, units
from snapd.blockmap import Kind
from snapd.qcow2.checking import check
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, flatten, writer

Qemu = Any  # the fixture's class, which tests can't import

SIZE = 6 * units.MIB + 1536


def text(chance: random.Random, length: int) -> bytes:
    """Return bytes that compress to about a third."""
    words = [chance.randbytes(12) for _ in range(300)]
    return b"".join(chance.choices(words, k=length // 12 + 1))[:length]


def make_chain(folder: pathlib.Path, cluster_sizes: tuple[int, ...]) -> bytes:
    """Make a chain 0 (the bottom), 1 … of files and return what its top reads as."""
    chance = random.Random(3)
    opened: list[image.Image] = []
    content = b""
    for number, cluster_size in enumerate(cluster_sizes):
        path = folder / str(number)
        backing = str(number - 1) if number else None
        size = SIZE + 70 * units.KIB * (1 - number)
        create.create(path, size_bytes=size, cluster_size=cluster_size, backing_name=backing)
        with writer.Writer.open(path, chain.Chain(opened) if opened else None) as target:
            target.write(units.MIB * number, text(chance, units.MIB + 5 * units.KIB))
            target.write(units.MIB * (3 + number), chance.randbytes(300 * units.KIB))
            target.write_zeroes(units.MIB * number + 100 * units.KIB, 100 * units.KIB)
            target.write(size - 512, b"\7" * 512)
        opened.insert(0, image.Image.open(path))
        content = read(*opened)
    for each in opened:
        each.close()
    return content


def read(*images: image.Image) -> bytes:
    """Return what a chain, given from the top, reads as."""
    view = chain.Chain(images)
    buffer = bytearray(view.size_bytes)
    view.read_into(0, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize(
    ("cluster_size", "compression", "refcount_bits"),
    [
        (512, "zstd", 16),
        (4096, "deflate", 1),
        (65536, "deflate", 16),
        (65536, "zstd", 1),
        (2 * units.MIB, "deflate", 1),
        (2 * units.MIB, "zstd", 16),
    ],
)
def test_a_chain_becomes_one_compressed_image(
    tmp_path: pathlib.Path, qemu: Qemu, cluster_size: int, compression: str, refcount_bits: int
) -> None:
    content = make_chain(tmp_path, (65536, 4096, 16384))
    path = tmp_path / "flat"
    create.create(
        path, size_bytes=len(content), cluster_size=cluster_size, compression=compression, refcount_bits=refcount_bits
    )
    images = [image.Image.open(tmp_path / name) for name in "210"]
    with writer.Writer.open(path) as target:
        flatten.flatten(chain.Chain(images), target, compressed=True, threads=2)
    for each in images:
        each.close()
    with image.Image.open(path) as flat:
        assert read(flat) == content
        assert flat.block_map(0, len(content)).total(Kind.COMPRESSED) > units.MIB
    assert qemu.content(path) == content
    qemu.assert_clean(path)
    assert check.check(path).clean
    by_qemu = tmp_path / "by-qemu"
    kind = {"deflate": "zlib"}.get(compression, compression)
    options = f"compression_type={kind},cluster_size={cluster_size},refcount_bits={refcount_bits}"
    qemu.img("convert", "-c", "-f", "qcow2", "-O", "qcow2", "-o", options, tmp_path / "2", by_qemu)
    assert path.stat().st_size <= 1.05 * by_qemu.stat().st_size + 2 * cluster_size


def test_a_chain_becomes_one_plain_image(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    content = make_chain(tmp_path, (65536, 4096, 16384))
    path = tmp_path / "flat"
    create.create(path, size_bytes=len(content))
    images = [image.Image.open(tmp_path / name) for name in "210"]
    with writer.Writer.open(path) as target:
        assert flatten.flatten(chain.Chain(images), target) > 2 * units.MIB
    for each in images:
        each.close()
    assert qemu.content(path) == content
    qemu.assert_clean(path)


@pytest.mark.parametrize("cluster_size", [4096, 65536])
def test_an_image_pulls_in_what_it_shows_of_its_chain(tmp_path: pathlib.Path, qemu: Qemu, cluster_size: int) -> None:
    class Killed(BaseException):
        """The process ended here."""

    content = make_chain(tmp_path, (65536, 4096, cluster_size))
    strike = 1
    finished = False
    while not finished:
        left = [strike]

        def observer(_: fsops.Operation, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        beneath = [image.Image.open(tmp_path / name) for name in "10"]
        fsops.observe(observer)
        try:
            flatten.pull(tmp_path / "2", chain.Chain(beneath))
            finished = True
        except Killed:
            strike += 5
        finally:
            fsops.observe(None)
        with image.Image.open(tmp_path / "2") as top:
            below = [] if top.header.backing_name is None else beneath
            assert read(top, *below) == content
        for each in beneath:
            each.close()
    (tmp_path / "0").unlink()
    assert qemu.content(tmp_path / "2") == content
    assert qemu.check(tmp_path / "2").get("corruptions", 0) == 0


def test_a_compressed_stream_that_is_damaged_stops_the_flattening(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(text(random.Random(1), 4 * units.MIB))
    qemu.img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, tmp_path / "source")
    with image.Image.open(tmp_path / "source") as source:
        entry = int(source.block_map(2 * units.MIB, 512).host[0])
    with (tmp_path / "source").open("r+b") as file:
        file.seek(entry & (1 << 54) - 1)
        file.write(b"\xff" * 64)
    create.create(tmp_path / "flat", size_bytes=4 * units.MIB)
    with image.Image.open(tmp_path / "source") as source:
        target = writer.Writer.open(tmp_path / "flat")
        with pytest.raises(errors.Corrupt, match="compressed cluster"):
            flatten.flatten(chain.Chain([source]), target, compressed=True, threads=2)
        target.abandon()
    assert check.check(tmp_path / "flat").corruptions == 0
