"""What an archive needs beside the data: objects, and bytes of pages, indexes and documents, for each TiB of a disk.

Counted in the first archive of the real disk, and in one of 64 GiB of blocks that hold next to nothing; both are scaled
to a TiB of blocks that are stored. The second has as many names and places for each TiB as any, but few packs.
"""

import concurrent.futures
import os
import pathlib
from collections.abc import Iterator

from snapd import units
from snapd.archive import repository as repositories
from snapd.archive.backends import directory
from tests.bench import disks, figures, packs, rig

_SYNTHETIC_BYTES = 64 * units.GIB
_ENTRY_AND_ROW = 56 + 48
"""Bytes of a block's entry in a page, and of its row in a pack's index: the least that the format allows."""
_PACK = 32 * units.MIB


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty."""
    disk = folder / "disk.raw"
    disks.make(disk, quick=quick)
    with rig.running_on(folder / "state") as daemon:
        daemon.import_disk("bench", disk)
        daemon.snapshot("bench", "first")
    disk.unlink()
    yield from _report("the real disk", packs.survey(folder / "state" / "archive"), packs_filled=True)
    size = _SYNTHETIC_BYTES // (64 if quick else 1)
    _record(folder, size)
    name = f"{units.format_size(size)} of tiny blocks"
    yield from _report(name, packs.survey(folder / "synthetic"), packs_filled=False)


def _record(folder: pathlib.Path, size_bytes: int) -> None:
    """Archive a disk each of whose blocks holds its number, and otherwise zeros."""
    repository = repositories.Repository.open(
        directory.DirectoryBackend(folder / "synthetic"), folder / "synthetic.sqlite3", "bench"
    )
    try:
        block = repository.block_size
        threads = os.cpu_count() or 1
        with repository.begin("environment", "first", size_bytes) as recording:

            def work(thread: int) -> None:
                data = bytearray(block)
                for number in range(thread, size_bytes // block, threads):
                    data[:8] = (number + 1).to_bytes(8, "little")
                    recording.put(number, memoryview(data))

            with concurrent.futures.ThreadPoolExecutor(threads) as executor:
                list(executor.map(work, range(threads)))
            recording.commit({})
    finally:
        repository.close()


def _report(name: str, found: packs.Footprint, *, packs_filled: bool) -> Iterator[figures.Figure]:
    scale = units.TIB / found.block_bytes
    least = found.blocks * _ENTRY_AND_ROW
    for what, size in (
        ("metadata", found.metadata_bytes),
        ("of which pages", found.page_bytes),
        ("of which packs' indexes", found.index_bytes),
        ("of which documents", found.document_bytes),
    ):
        yield figures.Figure(
            f"footprint of a TiB, {name}: {what}",
            size * scale / units.MIB,
            "an entry and a row for each block",
            least * scale / units.MIB,
            "MiB",
            None,
        )
    if packs_filled:
        yield figures.Figure(
            f"footprint of a TiB, {name}: objects",
            found.objects * scale,
            "packs of 32 MiB filled by its data",
            found.data_bytes * scale / _PACK,
            "objects",
            None,
        )
