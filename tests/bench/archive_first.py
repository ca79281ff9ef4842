"""The first archive of a real disk, by the daemon, to the proven COMPLETED: against three programs, and bare work.

The disk is an ext4 in a sparse file. The daemon has it as a plain qcow2 volume, the others read the raw file; it has
left the page cache before each run, and every archive is new.
"""

import pathlib
import shutil
from collections.abc import Iterator, Sequence

from snapd import units
from tests.bench import bare, disks, figures, peers, rig, timing

RUNS = 3
GOAL, PASS = 1 / 2.5, 1 / 1.7
MEMORY_GOAL = 256 * units.MIB

_OURS = "first archive, proven"


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty and on the disk that is measured."""
    disk = folder / "disk.raw"
    disks.make(disk, quick=quick)
    others = peers.present(folder)
    sizes: list[int] = []
    peaks: list[int] = []

    def ours(_run: int) -> timing.Sample:
        sample, size, peak = _archive(folder / "state", disk)
        sizes.append(size)
        peaks.append(peak)
        return sample

    samples, alone, written, *theirs = figures.alternate(
        1 if quick else RUNS,
        ours,
        lambda _: _bare(disk, None),
        lambda _: _bare(disk, folder / "packs"),
        *(lambda _, peer=peer: _theirs(peer, disk) for peer in others),
    )
    yield from _compare(samples, others, theirs)
    yield figures.compared(_OURS, samples, "reading, hashing, compressing alone", alone, 1.25)
    yield figures.compared(_OURS, samples, "the same, and packs written and fsynced", written, 1.25)
    yield from _sizes(figures.median(sizes), {peer.name: peer.size_bytes() for peer in others})
    peak = max(peaks) / units.MIB
    yield figures.Figure(
        "peak memory of the daemon during a first archive", peak, "the goal", MEMORY_GOAL / units.MIB, "MiB", 1.0
    )


def _archive(state: pathlib.Path, disk: pathlib.Path) -> tuple[timing.Sample, int, int]:
    """Archive the disk with a new daemon; return what it took, the bytes of its archive, and its peak of memory."""
    with rig.running_on(state) as daemon:
        daemon.import_disk("bench", disk)
        daemon.forget()
        daemon.peak_bytes()
        sample = daemon.snapshot("bench", "first")
        peak = daemon.peak_bytes()
        size = rig.folder_bytes(daemon.archive_path)
    shutil.rmtree(state)
    return sample, size, peak


def _bare(disk: pathlib.Path, packs: pathlib.Path | None) -> timing.Sample:
    disks.forget(disk)
    if packs is None:
        return timing.call(lambda: bare.run(disk))
    packs.mkdir()
    sample = timing.call(lambda: bare.run(disk, packs))
    shutil.rmtree(packs)
    return sample


def _theirs(peer: peers.Peer, disk: pathlib.Path) -> timing.Sample:
    peer.make()
    disks.forget(disk)
    return peer.archive(disk)


def _compare(
    samples: Sequence[timing.Sample], others: Sequence[peers.Peer], theirs: Sequence[Sequence[timing.Sample]]
) -> Iterator[figures.Figure]:
    """Yield ours beside each of the others, the fastest one's with the goal and with what still passes."""
    if not others:
        return
    ranked = sorted(
        zip(others, theirs, strict=True), key=lambda pair: figures.median([sample.seconds for sample in pair[1]])
    )
    best, best_samples = ranked[0]
    yield figures.compared(_OURS, samples, f"the fastest: {best.name}", best_samples, GOAL)
    yield figures.compared(_OURS, samples, f"the fastest, to pass: {best.name}", best_samples, PASS)
    for peer, taken in ranked[1:]:
        yield figures.compared(_OURS, samples, peer.name, taken, None)


def _sizes(ours: float, theirs: dict[str, int]) -> Iterator[figures.Figure]:
    for number, (name, size) in enumerate(sorted(theirs.items(), key=lambda item: item[1])):
        yield figures.Figure(
            "first archive: its size",
            ours / units.MIB,
            f"the smallest: {name}" if number == 0 else name,
            size / units.MIB,
            "MiB",
            1.1 if number == 0 else None,
        )
