"""Reading a whole disk out of an image, plain and compressed: the engine, QEMU, and the two libraries there are.

Each reads the disk from its start to its end into memory, from a file in the page cache, in pieces of 4 MiB.
QEMU is `qemu-img convert` into its null device, with its usual eight requests at a time and threads that expand. Beside
it the engine has as many readers as there are processors, as its copier does; beside the libraries, which are not made
for several threads, one, though what is compressed is expanded by threads of the engine's own.
"""

import collections
import concurrent.futures
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator

import pyqcow
from dissect.hypervisor.disk import qcow2

from snapd import units
from snapd.qcow2.reading import chain, image
from tests.bench import disks, figures, timing

RUNS = 3
_PIECE = 4 * units.MIB
_THREADS = os.cpu_count() or 1

Reader = Callable[[pathlib.Path], Iterator[bytes | bytearray]]
"""Yields a disk's bytes from its start to its end; a piece is only good until the next."""


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty."""
    raw, path = folder / "disk.raw", folder / "disk.qcow2"
    libraries: dict[str, Reader] = {"dissect.hypervisor": _dissect, "libqcow": _libqcow}
    for kind, full, options, peers in (
        ("plain", 2 * units.GIB, (), libraries),
        ("deflate", 512 * units.MIB, ("-c",), libraries),
        ("zstd", 512 * units.MIB, ("-c", "-o", "compression_type=zstd"), {}),
    ):
        size = full // 8 if quick else full
        disks.write_files(raw, size, size)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", *options, raw, path], check=True)
        yield from _compare(f"read of {units.format_size(size)}, {kind}", path, raw, peers)
        path.unlink()


def _compare(
    what: str, path: pathlib.Path, raw: pathlib.Path, libraries: dict[str, Reader]
) -> Iterator[figures.Figure]:
    assert _wrong_pieces(_engine(path), raw) == 0
    right = {}
    for name, reader in libraries.items():
        wrong = _wrong_pieces(reader(path), raw)
        if wrong:
            print(
                f"  {what}: {name} returns other bytes in {wrong} of {raw.stat().st_size // _PIECE} pieces; not timed"
            )
        else:
            right[name] = reader
    sink = f"driver=null-co,size={raw.stat().st_size},read-zeroes=on"
    convert = ("qemu-img", "convert", "-n", "-f", "qcow2", "--target-image-opts", path, sink)
    threaded, qemu, alone, *others = figures.alternate(
        RUNS,
        lambda _: timing.call(lambda: _engine_threaded(path)),
        lambda _: timing.command(convert),
        *(lambda _, reader=reader: timing.call(lambda: _drain(reader(path))) for reader in (_engine, *right.values())),
    )
    yield figures.compared(f"{what}, {_THREADS} readers", threaded, "qemu-img convert to nowhere", qemu, 1 / 0.8)
    for name, samples in zip(right, others, strict=True):
        yield figures.compared(f"{what}, one reader", alone, name, samples, 1.0)


def _engine(path: pathlib.Path) -> Iterator[bytearray]:
    with image.Image.open(path) as opened:
        view = chain.Chain([opened])
        buffer = bytearray(_PIECE)
        for offset in range(0, opened.size_bytes, _PIECE):
            view.read_into(offset, memoryview(buffer))
            yield buffer


def _engine_threaded(path: pathlib.Path) -> None:
    """Read a disk with several threads, each of which has a piece and a buffer of its own."""
    with image.Image.open(path) as opened, concurrent.futures.ThreadPoolExecutor(_THREADS) as executor:
        view = chain.Chain([opened])
        offsets = iter(range(0, opened.size_bytes, _PIECE))

        def work(buffer: bytearray) -> None:
            # next() of a range's iterator is one step of the interpreter, so threads may share it.
            for offset in offsets:
                view.read_into(offset, memoryview(buffer))

        collections.deque(executor.map(work, [bytearray(_PIECE) for _ in range(_THREADS)]), maxlen=0)


def _dissect(path: pathlib.Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        stream = qcow2.QCow2(file).open()
        while piece := stream.read(_PIECE):
            yield piece


def _libqcow(path: pathlib.Path) -> Iterator[bytes]:
    file = pyqcow.file()
    file.open(str(path))
    try:
        while piece := file.read_buffer(_PIECE):
            yield piece
    finally:
        file.close()


def _drain(pieces: Iterator[bytes | bytearray]) -> None:
    collections.deque(pieces, maxlen=0)


def _wrong_pieces(pieces: Iterator[bytes | bytearray], raw: pathlib.Path) -> int:
    """Return how many pieces that a reader yields are not the bytes of a raw file."""
    wrong = 0
    with raw.open("rb") as file:
        for piece in pieces:
            wrong += piece != file.read(len(piece))
        return wrong + bool(file.read(1))
