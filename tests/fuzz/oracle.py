"""What has to hold whatever a file holds: the engine's promises about images that somebody else made.

- Only refusals come out, never another exception; the file system never gets to see an impossible offset.
- A map lies within the disk, and what it calls data lies within the file and nowhere on tables.
- What the check finds no fault with, and what an import lets through, can be mapped and read (but for clusters whose
  compressed bytes are damaged: no check unpacks them).
- Writing to a sound image leaves it so, holding what was written and all that was there before. If nothing leaked
  before, nothing does then.
- A repair makes nothing worse and changes no byte that the guest sees.

Time and memory are bounded by whoever runs this: libFuzzer, or the limits of the test.
"""

import functools
import pathlib
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from snapd import blockmap, errors, units
from snapd.qcow2.checking import check, repair, survey, vet
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, writer
from tests.fuzz import sparse

REFUSALS = (errors.ImageRefused, errors.Corrupt)

_MAPPED = 64 * units.MIB
"""Bytes of the disk that are mapped, from its beginning on; a part of its end is, too."""
_MODELLED = 256 * units.KIB
"""Bytes of the disk whose contents are compared."""
_EXTENTS_READ = 16
_SNAPSHOTS_READ = 4
_REPAIRS: tuple[Callable[[pathlib.Path], object], ...] = (
    repair.repair_leaks,
    functools.partial(repair.repair, leaks_only=True),
    functools.partial(repair.repair, leaks_only=False),
)


class Finding(AssertionError):
    """A promise was broken."""


class Judge:
    """A folder in memory in which files are tried, one at a time."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._path = folder / "image.qcow2"
        below = folder / "below.qcow2"
        create.create(below, size_bytes=_MODELLED // 2)
        with writer.Writer.open(below) as target:
            target.write(0, bytes(range(1, 256)) * 512 + bytes(512))
        self._below = image.Image.open(below)

    def judge(self, data: bytes) -> None:
        """Try the file that data says. Raises Finding, or whatever else came out that shouldn't."""
        file = sparse.unpack(data)
        sparse.write(self._path, file)
        report = self._check()
        self._try_reading(sound=report is not None and report.clean)
        self._try_import()
        if self._path.read_bytes() != file:
            raise Finding("reading or checking changed the file")
        self._try_writing(random.Random(zlib.crc32(data)), report)
        sparse.write(self._path, file)
        self._try_repair(file, report)

    def close(self) -> None:
        """Let go of the files."""
        self._below.close()

    # --- the parts ----------------------------------------------------------------------------------------------------

    def _check(self) -> check.CheckReport | None:
        """Return the verdict, or None if there can't be any."""
        try:
            return check.check(self._path)
        except REFUSALS:
            return None

    def _try_reading(self, *, sound: bool) -> None:
        with _refusals(*([errors.Corrupt] if sound else [])), image.Image.open(self._path) as opened:
            self._read_parts(opened)
            for snapshot in opened.snapshots()[:_SNAPSHOTS_READ]:
                with _refusals(), opened.of_snapshot(snapshot.id) as view:
                    self._read_parts(view)
            opened.bitmaps()

    def _read_parts(self, opened: image.Image) -> None:
        for start, length in _parts(opened.size_bytes):
            extents = opened.block_map(start, length)
            _require_possible(opened, extents, start, length)
            for offset in extents.start[:_EXTENTS_READ].tolist():
                self._read(opened, offset, min(4096, opened.size_bytes - offset))

    def _read(self, opened: image.Image, offset: int, length: int) -> bytes | None:
        """Return what a range reads as, or None if compressed clusters in it are damaged."""
        buffer = bytearray(length)
        view = self._view(opened)
        extents = view.block_map(offset, length)
        try:
            view.read_extents_into(extents, offset, memoryview(buffer))
        except errors.Corrupt:
            if extents.total(blockmap.Kind.COMPRESSED):
                return None
            raise
        return bytes(buffer)

    def _view(self, opened: image.Image) -> chain.Chain:
        return chain.Chain([opened, self._below] if opened.header.backing_name is not None else [opened])

    def _contents(self) -> bytes | None:
        """Return what the beginning of the disk reads as, or None as `_read` does. Raises refusals."""
        with image.Image.open(self._path) as opened:
            return self._read(opened, 0, min(opened.size_bytes, _MODELLED))

    def _try_import(self) -> None:
        with _refusals():
            vet.vet_import(self._path)
            with _refusals(*REFUSALS), image.Image.open(self._path) as opened:
                for start, length in _parts(opened.size_bytes):
                    opened.block_map(start, length)
                self._contents()

    def _is_clean_beyond_its_end(self) -> bool:
        """Say whether no refcounts would turn out to be leaks if the file were longer; changes it."""
        with self._path.open("r+b") as file:
            end = file.seek(0, 2)
            file.truncate(max(end, 2 * sparse.LONGEST))
            report = self._check()
            file.truncate(end)
        return report is not None and report.clean

    def _try_writing(self, chance: random.Random, report: check.CheckReport | None) -> None:
        sound = report is not None and report.corruptions == 0
        clean = report is not None and report.clean and self._is_clean_beyond_its_end()
        with _refusals():
            before = self._contents()
            if not before:
                return
            model = bytearray(before)
            with image.Image.open(self._path) as opened:
                has_backing = opened.header.backing_name is not None
                # Who writes without keeping the bitmaps up to date gives them up, and their clusters with them.
                has_bitmaps = opened.header.bitmaps[0] > 0
            below = chain.Chain([self._below]) if has_backing else None
            target = writer.Writer.open(self._path, below)
            try:
                _change(target, model, chance)
                target.flush()
            finally:
                target.abandon()
            if sound:
                with _refusals(*REFUSALS):
                    after = check.check(self._path)
                    # A plain cluster that compressed ones lie in too is its entry's own once they are gone.
                    if self._faults() or (after.corruptions and not (report and report.compressed_clusters)):
                        raise Finding(f"writing corrupted {report} into {after}")
                    if after.leaks and clean and not has_bitmaps:
                        raise Finding(f"writing leaked clusters of {report}: {after}")
                    if self._contents() != bytes(model):
                        raise Finding("what was written doesn't read back")

    def _try_repair(self, file: bytearray, report: check.CheckReport | None) -> None:
        before, faults = None, 0
        with _refusals():
            before = self._contents()
        with _refusals():
            faults = self._faults()
        for repaired in _REPAIRS:
            sparse.write(self._path, file)
            with _refusals():
                repaired(self._path)
            after = self._check()
            if report is None:
                continue
            # Where entries are impossible nothing is known to be free, so that what a rebuild replaces is kept.
            whole = after is not None and not after.corruptions and not after.check_errors
            if after is None or self._faults() > faults or (whole and after.leaks > report.leaks):
                raise Finding(f"a repair turned {report} into {after}")
            if before is not None and self._contents() != before:
                raise Finding("a repair changed what the guest sees")

    def _faults(self) -> int:
        """Return how much is wrong but for flags: one that refers to metadata is so once there is a refcount for it."""
        with image.Image.open(self._path) as opened:
            found = survey.survey(opened.fileno(), opened.header, opened.file_size)
            return found.corruptions + found.verdict.check_errors - found.verdict.flags


@contextmanager
def _refusals(*unless: type[errors.SnapdError]) -> Iterator[None]:
    """Let refusals pass, but make findings of those for which there is no reason."""
    try:
        yield
    except REFUSALS as error:
        if isinstance(error, unless):
            raise Finding(f"refused without a reason: {error}") from error


def _parts(size_bytes: int) -> Sequence[tuple[int, int]]:
    """Return the ranges of a disk that are mapped."""
    first = min(size_bytes, _MAPPED)
    last = min(size_bytes - first, units.MIB)
    return [(0, first), (size_bytes - last, last)]


def _require_possible(opened: image.Image, extents: blockmap.BlockMap, start: int, length: int) -> None:
    """Raise Finding if a map contradicts itself, or has data where a file's tables are."""
    ends = extents.start + extents.length
    inside = (extents.start >= start).all() and (ends <= start + length).all() and (extents.length > 0).all()
    if not inside or (extents.start[1:] < ends[:-1]).any():
        raise Finding("a map whose extents don't lie in a row within what was asked for")
    data = extents.take(extents.kind == blockmap.Kind.DATA)
    if len(data) == 0:
        return
    low, high = data.host, data.host + data.length
    if (low < 0).any() or int(high.max()) > units.round_up(opened.file_size, opened.cluster_size):
        raise Finding("data beyond the file")
    for offset, size in _tables(opened):
        if ((low < offset + size) & (high > offset)).any():
            raise Finding(f"data on the table at offset {offset}")


def _tables(opened: image.Image) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file that hold metadata, found without the engine's help."""
    head = opened.header
    file = opened.path.read_bytes()
    size = head.cluster_size
    yield 0, size
    yield head.refcount_table_offset, head.refcount_table_clusters * size
    yield head.l1_offset, 8 * head.l1_size
    entries = head.refcount_table_clusters * size // 8
    for table, count in ((head.refcount_table_offset, entries), (head.l1_offset, head.l1_size)):
        raw = np.frombuffer(file, ">u8", count, table)
        for entry in np.unique(raw[raw != 0])[:1024].tolist():
            yield entry & 0x00FFFFFFFFFFFE00, size


def _change(target: writer.Writer, model: bytearray, chance: random.Random) -> None:
    """Change the disk at random, and the model with it."""
    for _ in range(6):
        granule = chance.choice((units.SECTOR, target.cluster_size))
        offset = chance.randrange(0, len(model), granule)
        length = min(chance.choice((1, 2, 5)) * granule, len(model) - offset)
        match chance.randrange(6):
            case 0 | 1 | 2:
                data = struct.pack(">I", chance.getrandbits(32)) * (length // 4)
                whole = granule == target.cluster_size and (
                    length % granule == 0 or offset + length == target.size_bytes
                )
                (target.write_compressed if whole and chance.random() < 0.3 else target.write)(offset, data)
                model[offset : offset + length] = data
            case 3:
                target.flush()
            case 4:
                target.write_zeroes(offset, length)
                model[offset : offset + length] = bytes(length)
            case _:
                target.discard(offset, length)
                low = units.round_up(offset, target.cluster_size)
                end = offset + length
                high = end if end == target.size_bytes else units.round_down(end, target.cluster_size)
                model[low:high] = bytes(max(0, high - low))
