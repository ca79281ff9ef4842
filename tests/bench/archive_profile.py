"""Where the time of a first archive goes: the copier and a repository in this process, its functions wrapped thinly.

The source is a plain qcow2 image that has left the page cache; the archive is a folder on the same disk, durable and
proven at the end. Runs without any wrapper say what the wrappers cost; the bare pipeline says what the bytes cost.
"""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

from snapd.archive import repository as repositories
from snapd.archive.backends import directory
from snapd.copier import control, record
from snapd.qcow2.reading import chain, image
from tests.bench import bare, disks, figures, meter, timing

RUNS = 3

_ARCHIVE = "snapd.archive"
TARGETS = (
    meter.Target("snapd.copier.record", "_plan", "planning"),
    meter.Target("snapd.qcow2.reading.chain", "Chain.block_map", "planning"),
    meter.Target("snapd.qcow2.reading.chain", "Chain.read_extents_into", "reading"),
    meter.Target(f"{_ARCHIVE}.recording", "Recording.put", "recording, its own"),
    meter.Target(f"{_ARCHIVE}.recording", "_is_zero", "zero test"),
    meter.Target(f"{_ARCHIVE}.deposit", "Deposit.put", "deposit, its own"),
    meter.Target(f"{_ARCHIVE}.names", "keyed", "hashing"),
    meter.Target(f"{_ARCHIVE}.names", "Hasher.update", "hashing of packs"),
    meter.Target(f"{_ARCHIVE}.codec", "Codec.encode", "compressing"),
    meter.Target(f"{_ARCHIVE}.codec", "Codec.decode", "decoding"),
    meter.Target(f"{_ARCHIVE}.pack", "Writer.__init__", "packing"),
    meter.Target(f"{_ARCHIVE}.pack", "Writer.reserve", "packing"),
    meter.Target(f"{_ARCHIVE}.pack", "Writer.append", "packing"),
    meter.Target(f"{_ARCHIVE}.pack", "Writer.finish", "packing"),
    meter.Target(f"{_ARCHIVE}.pack", "prove", "proof", umbrella=True),
    meter.Target(f"{_ARCHIVE}.pack", "verify", "proof", umbrella=True),
    meter.Target(f"{_ARCHIVE}.backends.directory", "DirectoryUpload.append", "writing"),
    meter.Target(f"{_ARCHIVE}.backends.directory", "DirectoryUpload.finish", "fsync and rename"),
    meter.Target(f"{_ARCHIVE}.backends.directory", "DirectoryBackend.put", "documents"),
    meter.Target(f"{_ARCHIVE}.backends.directory", "DirectoryBackend.get_range", "reading back"),
    meter.Target(f"{_ARCHIVE}.backends.directory", "DirectoryBackend.drop_cache", "dropping the cache"),
    meter.Target(f"{_ARCHIVE}.blobs", "Blobs.find", "index (SQLite)"),
    *(
        meter.Target(f"{_ARCHIVE}.index", f"Index.{name}", "index (SQLite)")
        for name in ("find", "add", "mark", "pack", "packs", "damaged", "reconcile")
    ),
    *(meter.Target(f"{_ARCHIVE}.tree", f"Tree.{name}", "pages") for name in ("replace", "clear", "write")),
)


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty and on the disk that is measured."""
    raw, source = folder / "disk.raw", folder / "disk.qcow2"
    disks.make(raw, quick=quick)
    subprocess.run(("qemu-img", "convert", "-O", "qcow2", raw, source), check=True)
    meters: list[meter.Meter] = []

    def wrapped(_run: int) -> timing.Sample:
        meters.append(meter.Meter())
        with meters[-1].wrapping(TARGETS):
            return _archive(source, folder / "archive")

    runs = 1 if quick else RUNS
    plain, timed, alone = figures.alternate(
        runs, lambda _: _archive(source, folder / "archive"), wrapped, lambda _: _alone(raw)
    )
    yield figures.compared("first archive in process", plain, "reading, hashing, compressing alone", alone, None)
    yield figures.compared("the same with wrappers", timed, "without", plain, None)
    chosen = sorted(range(runs), key=lambda run: timed[run].seconds)[runs // 2]
    yield from _report(meters[chosen], timed[chosen])


def _alone(raw: pathlib.Path) -> timing.Sample:
    disks.forget(raw)
    return timing.call(lambda: bare.run(raw))


def _archive(source: pathlib.Path, place: pathlib.Path) -> timing.Sample:
    """Archive an image into a new archive, which is removed again."""
    disks.forget(source)
    place.mkdir()
    store = directory.DirectoryBackend(place / "store")
    repository = repositories.Repository.open(store, place / "index.sqlite3", "bench")
    try:
        return timing.call(lambda: _record(source, repository))
    finally:
        repository.close()
        shutil.rmtree(place)


def _record(source: pathlib.Path, repository: repositories.Repository) -> None:
    threads = min(8, 2 * (os.cpu_count() or 1))
    with image.Image.open(source, past_cache=True) as opened:
        seen = chain.Chain([opened])
        with repository.begin("environment", "first", seen.size_bytes) as recording:
            record.record(seen, None, recording, repository.block_size, threads, control.Control())
            recording.commit({})


def _report(found: meter.Meter, whole: timing.Sample) -> Iterator[figures.Figure]:
    """Print a run's parts as a table, and yield each as a share of all that the run took of the processors."""
    for name in found.missing:
        print(f"  there is no {name} to be wrapped; its time is its caller's")
    parts = sorted(found.parts.items(), key=lambda item: -item[1].cpu_seconds)
    rest = whole.cpu_seconds - sum(spent.cpu_seconds for _, spent in parts)
    print(f"  {'part':<32}{'CPU s':>8}{'share':>8}{'waiting s':>11}{'calls':>10}")
    for name, spent in parts:
        share = spent.cpu_seconds / whole.cpu_seconds
        print(f"  {name:<32}{spent.cpu_seconds:>8.2f}{share:>8.1%}{spent.waiting_seconds:>11.2f}{spent.calls:>10,}")
    print(f"  {'the rest':<32}{rest:>8.2f}{rest / whole.cpu_seconds:>8.1%}")
    print(f"  {'all':<32}{whole.cpu_seconds:>8.2f}{1:>8.0%}   in {whole.seconds:.2f} s on the clock")
    for name, cpu_seconds in [*((name, spent.cpu_seconds) for name, spent in parts), ("the rest", rest)]:
        yield figures.Figure(
            f"profile of a first archive: {name}", cpu_seconds, "all of its CPU time", whole.cpu_seconds, "s", None
        )
