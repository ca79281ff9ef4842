"""Archives of a disk of which 1 % has changed: against its first archive, and against what was changed.

What is written comes from other places of the same disk, so it compresses as the disk does, and shifted by an odd
number of sectors, so that no block of it is in the archive already. Runs begin at seeded places at multiples of 4 KiB.
"""

import dataclasses
import os
import pathlib
import random
from collections.abc import Iterator, Sequence

from snapd import units
from tests.bench import bare, disks, figures, rig, timing

RUNS = 3
SEED = 20240229
SHARE = 0.01
GOAL = 0.03
_GRAIN = 4 * units.KIB
_SCATTERS = (4 * units.KIB, 64 * units.KIB)
_FOLDED = 3
"""Rapid snapshots between two archives; all but the last are deleted, and their layers folded."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Archived:
    """One archive of the disk."""

    sample: timing.Sample
    stored_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Round:
    """What one environment gave: a first archive, and others by how they came about."""

    first: _Archived
    others: dict[str, _Archived]
    amplification: dict[int, tuple[int, int]]
    """Bytes stored and changed, by the length of the runs that were written."""


class _Changes:
    """Runs to write, out of one seed."""

    def __init__(self, raw: pathlib.Path, seed: int) -> None:
        self._raw = raw
        self._blocks = disks.data_blocks(raw, bare.BLOCK)
        self._random = random.Random(seed)
        self.data_bytes = len(self._blocks) * bare.BLOCK
        """Bytes of the blocks of the disk that hold anything."""

    def pieces(self, length: int, share: float) -> list[rig.Piece]:
        """Return runs of `length` bytes at places that hold data, in all a share of it; none touches another."""
        wanted = max(1, round(self.data_bytes * share / length))
        starts: list[int] = []
        taken: set[int] = set()
        while len(starts) < wanted:
            start = self._place(length)
            grains = range(start // _GRAIN, (start + length) // _GRAIN)
            if taken.isdisjoint(grains):
                taken.update(grains)
                starts.append(start)
        fd = os.open(self._raw, os.O_RDONLY)
        try:
            return [(start, self._content(fd, start, length)) for start in sorted(starts)]
        finally:
            os.close(fd)

    def _place(self, length: int) -> int:
        within = self._random.randrange(bare.BLOCK // _GRAIN) * _GRAIN
        last = self._raw.stat().st_size - length
        return min(self._random.choice(self._blocks) * bare.BLOCK + within, units.round_down(last, _GRAIN))

    def _content(self, fd: int, start: int, length: int) -> bytes:
        """Return data of another place, whose phase in its blocks is another one too."""
        shift = (2 * self._random.randrange(bare.BLOCK // units.SECTOR // 2) + 1) * units.SECTOR
        source = self._random.choice(self._blocks) * bare.BLOCK + start % bare.BLOCK + shift
        data = os.pread(fd, length, min(source, self._raw.stat().st_size - length - units.SECTOR))
        assert len(data) == length
        return data


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty and on the disk that is measured."""
    disk = folder / "disk.raw"
    disks.make(disk, quick=quick)
    print(f"  seed {SEED}")
    runs = 1 if quick else RUNS
    with rig.running_on(folder / "state") as daemon:
        rounds = [_round(daemon, disk, f"round-{number}", SEED + number) for number in range(runs)]
    yield from _compare(rounds)


def _round(daemon: rig.Rig, disk: pathlib.Path, environment: str, seed: int) -> _Round:
    """Archive a disk again and again in an environment of its own; primary storage is empty at the end."""
    changes = _Changes(disk, seed)
    daemon.import_disk(environment, disk)
    first = _snapshot(daemon, environment, "first")
    others = {"unchanged": _snapshot(daemon, environment, "unchanged")}
    daemon.write(environment, changes.pieces(units.MIB, SHARE))
    others["1 % changed"] = _snapshot(daemon, environment, "direct")
    others["1 % changed, layers between folded"] = _folded(daemon, environment, changes)
    others["1 % changed, its base deleted"] = _base_deleted(daemon, environment, changes)
    amplification: dict[int, tuple[int, int]] = {}
    for length in _SCATTERS:
        pieces = changes.pieces(length, SHARE)
        daemon.write(environment, pieces)
        stored = _snapshot(daemon, environment, f"scatter-{length}").stored_bytes
        amplification[length] = stored, len(pieces) * length
    daemon.delete_volume(environment, "disk")
    daemon.wait_for_layers(0)
    return _Round(first, others, amplification)


def _snapshot(daemon: rig.Rig, environment: str, snapshot_id: str) -> _Archived:
    daemon.forget()
    sample = daemon.snapshot(environment, snapshot_id)
    return _Archived(sample, daemon.find(environment, snapshot_id).archive.stored_bytes)


def _archived(daemon: rig.Rig, environment: str, snapshot_id: str) -> _Archived:
    daemon.forget()
    sample = daemon.archive(environment, snapshot_id)
    return _Archived(sample, daemon.find(environment, snapshot_id).archive.stored_bytes)


def _folded(daemon: rig.Rig, environment: str, changes: _Changes) -> _Archived:
    """Change the disk in steps, each with a rapid snapshot, have their layers folded, and archive the last one."""
    for step in range(_FOLDED):
        daemon.write(environment, changes.pieces(units.MIB, SHARE / _FOLDED))
        daemon.snapshot(environment, f"step-{step}", rapid=True)
    for step in range(_FOLDED - 1):
        daemon.delete_snapshot(environment, f"step-{step}")
    # The volume's head, and one layer with all that it stands on.
    daemon.wait_for_layers(2)
    return _archived(daemon, environment, f"step-{_FOLDED - 1}")


def _base_deleted(daemon: rig.Rig, environment: str, changes: _Changes) -> _Archived:
    """Change half, archive, change half, and delete what was archived: the archive before that becomes the base.

    Its packs are collected before, so that none of its blocks is found again.
    """
    daemon.write(environment, changes.pieces(units.MIB, SHARE / 2))
    stored = _snapshot(daemon, environment, "deleted").stored_bytes
    daemon.write(environment, changes.pieces(units.MIB, SHARE / 2))
    daemon.snapshot(environment, "after", rapid=True)
    before = rig.folder_bytes(daemon.archive_path)
    daemon.delete_snapshot(environment, "deleted")
    daemon.wait_for_collection(before - stored)
    daemon.wait_for_layers(2)
    return _archived(daemon, environment, "after")


def _compare(rounds: Sequence[_Round]) -> Iterator[figures.Figure]:
    first = [each.first.sample for each in rounds]
    first_bytes = figures.median([each.first.stored_bytes for each in rounds])
    for what in rounds[0].others:
        taken = [each.others[what] for each in rounds]
        name = f"second archive, {what}"
        yield figures.compared(name, [each.sample for each in taken], "its first archive", first, GOAL)
        yield figures.Figure(
            f"{name}: bytes stored",
            figures.median([each.stored_bytes for each in taken]) / units.MIB,
            "its first archive",
            first_bytes / units.MIB,
            "MiB",
            GOAL,
        )
    for length in _SCATTERS:
        stored, changed = zip(*(each.amplification[length] for each in rounds), strict=True)
        yield figures.Figure(
            f"bytes stored, 1 % changed in runs of {units.format_size(length)}",
            figures.median(stored) / units.MIB,
            "bytes changed",
            figures.median(changed) / units.MIB,
            "MiB",
            None,
        )
