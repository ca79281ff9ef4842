"""A whole disk into a new image, compressed or not: the engine's flattening against `qemu-img convert`.

The source is a plain image in the page cache, and both end with everything on the disk. QEMU works with sixteen
requests at a time and writes in any order, which is its fastest; the engine with a thread for each processor.
"""

import pathlib
import subprocess
from collections.abc import Iterator

from snapd import units
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, flatten, writer
from tests.bench import disks, figures, timing

RUNS = 3
_QEMU_NAMES = {"deflate": "zlib", "zstd": "zstd"}
_CONVERT = ("qemu-img", "convert", "-t", "writeback", "-W", "-m", "16", "-f", "qcow2", "-O", "qcow2")


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty."""
    size = 64 * units.MIB if quick else 512 * units.MIB
    raw, source = folder / "disk.raw", folder / "source.qcow2"
    disks.write_files(raw, size, size)
    subprocess.run(("qemu-img", "convert", "-t", "writeback", "-O", "qcow2", raw, source), check=True)
    raw.unlink()
    for compression in (None, "deflate", "zstd"):
        yield from _compare(source, compression, f"convert of {units.format_size(size)}, {compression or 'plain'}")


def _compare(source: pathlib.Path, compression: str | None, what: str) -> Iterator[figures.Figure]:
    ours, theirs = source.with_name("ours.qcow2"), source.with_name("theirs.qcow2")
    options = () if compression is None else ("-c", "-o", f"compression_type={_QEMU_NAMES[compression]}")

    def flattened(run: int) -> timing.Sample:
        ours.unlink(missing_ok=True)
        sample = timing.call(lambda: _flatten(source, ours, compression))
        if run == 0:
            subprocess.run(("qemu-img", "check", "-q", ours), check=True)
            subprocess.run(("qemu-img", "compare", "-q", source, ours), check=True)
        return sample

    def converted(_: int) -> timing.Sample:
        theirs.unlink(missing_ok=True)
        return timing.command((*_CONVERT, *options, source, theirs))

    samples = figures.alternate(RUNS, flattened, converted)
    yield figures.compared(what, samples[0], "qemu-img convert -W -m 16", samples[1], 1.0)
    if compression is not None:
        sizes = [path.stat().st_blocks * units.SECTOR / units.MIB for path in (ours, theirs)]
        yield figures.Figure(f"{what}: size of the file", sizes[0], "qemu-img convert", sizes[1], "MiB", 1.1)
    ours.unlink()
    theirs.unlink()


def _flatten(source: pathlib.Path, target: pathlib.Path, compression: str | None) -> None:
    with image.Image.open(source) as opened:
        create.create(target, size_bytes=opened.size_bytes, compression=compression or "deflate")
        with writer.Writer.open(target) as written:
            flatten.flatten(chain.Chain([opened]), written, compressed=compression is not None)
