"""Checks of large, fragmented and hostile files: the same verdict window by window, in bounded time and memory."""

import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

from snapd import errors, units
from snapd.qcow2.checking import check, references, tally
from snapd.qcow2.format import header, layout
from snapd.qcow2.reading import image
from snapd.qcow2.writing import create, writer

SMALL = 512
MEMORY_MAX_MIB = 500
"""Resident. The interpreter with numpy takes 40, and four million entries of an L1 table 32 for each array of them."""
WORK_MAX_S = 20
"""Of the processor: ten times what it takes."""


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return an image of 1,000 small clusters in no order, some of which leak and some of which are lost."""
    path = tmp_path_factory.mktemp("scattered") / "disk.qcow2"
    create.create(path, size_bytes=2 * units.MIB, cluster_size=SMALL)
    places = list(range(0, units.MIB, 2 * SMALL))
    random.Random(5).shuffle(places)
    with writer.Writer.open(path) as target:
        for place in places:
            target.write(place, b"x" * SMALL)
    with image.Image.open(path) as opened, path.open("r+b") as file:
        blocks = os.pread(opened.fileno(), SMALL, opened.header.refcount_table_offset)
        for number, value in ((0, 5), (1, 0), (3, 2)):
            file.seek(int.from_bytes(blocks[8 * number : 8 * number + 8]) + 100)
            file.write(value.to_bytes(2))
    return path


@pytest.mark.parametrize("kept", [0, 100, 1 << 20], ids=["read again", "kept in part", "kept"])
def test_a_file_of_many_windows_has_the_same_verdict(
    scattered: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    whole = check.check(scattered)
    assert whole.leaks
    assert whole.corruptions
    monkeypatch.setattr(tally, "_PAGE", 256)
    monkeypatch.setattr(references, "_WINDOW", 512)
    monkeypatch.setattr(references, "_KEPT_RUNS", kept)
    monkeypatch.setattr(references, "_CHUNK", 4 * SMALL)
    assert check.check(scattered) == whole


def test_a_file_of_more_clusters_than_can_be_counted_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=units.MIB, cluster_size=SMALL)
    os.truncate(path, 2 * units.TIB)
    with pytest.raises(errors.ImageRefused, match="4294967296 clusters"):
        check.check(path)


def run_bounded(path: pathlib.Path) -> str:
    """Check an image in a process of its own, hold that to the bounds, and return the outcome."""
    code = (
        "import pathlib, re, resource, sys\nfrom snapd import errors\nfrom snapd.qcow2.checking import check\n"
        "try:\n    print(check.check(pathlib.Path(sys.argv[1])))\n"
        "except errors.SnapdError as error:\n    print(type(error).__name__, error)\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        # Its own peak: ru_maxrss counts what the parent took before it began the program.
        "peak = re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]\n"
        "print(used.ru_utime + used.ru_stime, int(peak) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True, timeout=120)
    outcome, used = done.stdout.splitlines()
    work, memory = used.split()
    assert float(work) < WORK_MAX_S, used
    assert int(memory) < MEMORY_MAX_MIB, used
    return outcome


def test_a_sparse_file_costs_what_was_written_to_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=units.MIB, cluster_size=SMALL)
    os.truncate(path, units.TIB - SMALL)
    outcome = run_bounded(path)
    assert "leaks=0, corruptions=0" in outcome, outcome


def hostile(path: pathlib.Path, cluster_size: int, entries: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    """Make an image whose L1 table has these entries, behind the refcount table and room for an L2 table."""
    l1_at = 3 * cluster_size
    made = header.Header(
        version=3,
        cluster_bits=cluster_size.bit_length() - 1,
        size_bytes=len(entries) * cluster_size // layout.ENTRY_SIZE * cluster_size,
        l1_size=len(entries),
        l1_offset=l1_at,
        refcount_table_offset=cluster_size,
        refcount_table_clusters=1,
    )
    with path.open("wb") as file:
        file.write(made.serialise())
        file.seek(l1_at)
        file.write(entries.astype(">i8").tobytes())


@pytest.mark.parametrize("cluster_size", [512, 2 * units.MIB])
def test_four_million_entries_of_one_table_are_counted_in_bounded_time(
    tmp_path: pathlib.Path, cluster_size: int
) -> None:
    path = tmp_path / "disk.qcow2"
    entries = np.full(layout.L1_BYTES_MAX // 8, 2 * cluster_size | layout.COPIED)
    hostile(path, cluster_size, entries)
    with path.open("r+b") as file:
        file.seek(2 * cluster_size)
        file.write(np.full(cluster_size // 8, 2 * cluster_size | layout.COPIED).astype(">i8").tobytes())
    outcome = run_bounded(path)
    assert "CheckReport" in outcome
    assert "corruptions=0" not in outcome


def test_tables_in_the_holes_of_a_terabyte_are_not_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.qcow2"
    cluster_size = 2 * units.MIB
    # 8 TiB of L2 tables, all of them holes.
    places = (np.arange(layout.L1_BYTES_MAX // 8, dtype=np.int64) + 100) * cluster_size
    hostile(path, cluster_size, places)
    os.truncate(path, 10 * units.TIB)
    outcome = run_bounded(path)
    assert "CheckReport" in outcome or "ImageRefused" in outcome
