"""Kills: a process that dies at any step leaves an archive that the next one goes on with."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from snapd import faults
from snapd.archive.backends import directory
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, content

ROOT = pathlib.Path(__file__).parents[3]

VICTIM = """
import pathlib, sys
from snapd import faults, units
from snapd.archive import pack
from snapd.archive.backends import directory
from tests.unit.archive import archives

folder = pathlib.Path(sys.argv[1])
pack.TARGET = 256 * units.KIB
archive = archives.Archive.open(directory.DirectoryBackend(folder / "archive"), folder / "index.sqlite3")
archive.record("old", {number: archives.content(number) for number in range(8)})
archive.record("base", {number: archives.content(number) for number in range(6, 12)}, 12 * archives.BLOCK)
archive.repository.delete_snapshot(archives.ENVIRONMENT, "old")
assert faults.install()
blocks = {number: archives.content(("new", number)) for number in range(0, 24, 2)}
archive.record("snap", blocks, 24 * archives.BLOCK, base="base")
archive.repository.upkeep.collect()
archive.repository.upkeep.repack()
"""

MOMENTS = [
    "archive.pack-finished",
    "archive.pack-finished:2",
    "archive.before-proof",
    "archive.after-proof",
    "archive.before-manifest",
    "archive.after-manifest",
    "archive.collect-listed",
    "archive.collect-forgotten",
    "archive.tombstone-written",
    "archive.removed",
    "archive.collect-deleted",
    "archive.repack-listed",
    "archive.repack-forgotten",
    "archive.moves-published",
    "archive.repack-removed",
    "create:2",
    "pwrite:5",
    "fsync:2",
    "link:2",
    "syncdir:3",
    "unlink",
    "rmdir",
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_loses_nothing_and_the_next_process_goes_on(tmp_path: pathlib.Path, moment: str) -> None:
    environment = os.environ | {faults.VARIABLE: f"kill@{moment}", "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        [sys.executable, "-c", VICTIM, str(tmp_path)], env=environment, capture_output=True, check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    archive = archives.Archive.open(directory.DirectoryBackend(tmp_path / "archive"), tmp_path / "index.sqlite3")
    try:
        archive.check()
        blocks = {number: content(("new", number)) for number in range(0, 24, 2)}
        if "snap" not in archive.repository.snapshots(ENVIRONMENT):
            archive.record("snap", blocks, 24 * BLOCK, base="base")
        base = archive.contents("base")
        expected = b"".join(
            blocks.get(number, base[number * BLOCK : (number + 1) * BLOCK] or bytes(BLOCK)) for number in range(24)
        )
        assert archive.contents("snap") == expected
        archive.repository.upkeep.collect()
        archive.check()
        for uid in ("base", "snap"):
            archive.repository.delete_snapshot(ENVIRONMENT, uid)
        archive.repository.delete_environment(ENVIRONMENT)
        left = {path.name for path in (tmp_path / "archive").rglob("*") if path.is_file()}
        assert left - {key.rpartition("/")[2] for key in archive.keys("/renewals/")} == {"repository.json", "00000001"}
    finally:
        archive.repository.close()
