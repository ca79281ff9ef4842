"""The daemon is killed at each named point, and after many single system calls, while clients use it.

What was acknowledged is there afterwards, what was not is there whole or not at all, and whoever sends a request again
gets what he wanted. `make test` tries a sample, `make torture` everything.
"""

import pathlib
import re
import tempfile
from collections.abc import Iterator

import pytest

from snapd import fsops
from tests.crash import script, trial
from tests.integration import running
from tests.unit.archive import test_kills as archive_kills

POINTS = (
    "archive.after-manifest",
    "archive.after-proof",
    "archive.before-manifest",
    "archive.before-proof",
    "archive.claim-noted",
    "archive.claimed",
    "archive.collect-deleted",
    "archive.collect-forgotten",
    "archive.collect-listed",
    "archive.pack-finished",
    "archive.removed",
    "archive.tombstone-written",
    "archive_run.before_commit",
    "archive_run.committed",
    "capture.before_commit",
    "capture.committed",
    "collect.before_commit",
    "create_volume.before_commit",
    "create_volume.fetched",
    "delete_snapshot.before_commit",
    "delete_snapshot.committed",
    "delete_snapshot.manifest_removed",
    "delete_volume.before_commit",
    "delete_volume.committed",
    "fold.before_commit",
    "fold.committed",
    "fold.marked",
    "fold.copied",
    "fold.relinked",
    "import_volume.before_commit",
    "import_volume.published",
    "pool.layer_written",
    "qcow2.clusters-durable",
    "qcow2.tables-durable",
    "restore.before_publish",
    "revert.before_commit",
    "revert.committed",
    "scrub.before_commit",
    "upload.flushed",
    "upload.whole",
    "verify_snapshot.before_commit",
)
IN_THE_ARCHIVE_ALONE = (
    "archive.moves-published",
    "archive.repack-forgotten",
    "archive.repack-listed",
    "archive.repack-removed",
)
"""The daemon passes these once it has gigabytes of garbage; tests/unit/archive/test_kills.py kills there."""
IN_BACKUPS_ALONE = ("backup.copied",)
"""The daemon of these tests makes no backups of its catalog, whose recordings would pass the archive's points before
those of snapshots; tests/crash/test_backups.py kills there."""
SAMPLE = ("archive.after-manifest", "capture.before_commit", "fold.relinked", "restore.before_publish", "upload.whole")


@pytest.fixture
def daemon() -> Iterator[running.Daemon]:
    """Give a daemon that is yet to be started."""
    with tempfile.TemporaryDirectory(prefix="snapd-") as folder:
        state, config = pathlib.Path(folder, "state"), pathlib.Path(folder, "config.toml")
        config.write_text(f'state_dir = "{state}"\nrun_dir = "{state}/run"\narchive.catalog_backup_interval = "0s"\n')
        daemon = running.Daemon(state, config)
        try:
            yield daemon
        finally:
            daemon.kill()


def test_no_point_is_forgotten() -> None:
    sources = pathlib.Path(fsops.__file__).parent
    found = {
        point
        for path in sources.rglob("*.py")
        for point in re.findall(r"fsops\.point\(\"([^\"]+)\"\)", path.read_text())
    }
    assert found == {*POINTS, *IN_THE_ARCHIVE_ALONE, *IN_BACKUPS_ALONE}
    assert set(IN_THE_ARCHIVE_ALONE) < set(archive_kills.MOMENTS)
    assert set(SAMPLE) < found


@pytest.mark.parametrize("point", SAMPLE)
def test_a_kill_at_a_point_loses_nothing(daemon: running.Daemon, steps: list[script.Step], point: str) -> None:
    assert trial.Trial(daemon, [f"kill@{point}"]).go_through(steps), f"{point} was never passed"


@pytest.mark.torture
@pytest.mark.parametrize("point", sorted(set(POINTS) - set(SAMPLE)))
def test_a_kill_at_any_other_point_loses_nothing(daemon: running.Daemon, steps: list[script.Step], point: str) -> None:
    assert trial.Trial(daemon, [f"kill@{point}"]).go_through(steps), f"{point} was never passed"


@pytest.mark.torture
@pytest.mark.parametrize("occurrence", [2, 3])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_later_pass_loses_nothing(
    daemon: running.Daemon, steps: list[script.Step], point: str, occurrence: int
) -> None:
    # Some points are passed once only; then nothing is killed, and everything has to be right all the same.
    trial.Trial(daemon, [f"kill@{point}:{occurrence}"]).go_through(steps)


@pytest.mark.torture
@pytest.mark.parametrize("occurrence", [1, 2, 3, 5, 8, 13, 21, 34, 55])
@pytest.mark.parametrize("call", ["fsync", "fdatasync", "rename", "syncdir", "unlink", "create", "pwrite", "link"])
def test_a_kill_before_any_call_loses_nothing(
    daemon: running.Daemon, steps: list[script.Step], call: str, occurrence: int
) -> None:
    trial.Trial(daemon, [f"kill@{call}:{occurrence}"]).go_through(steps)


@pytest.mark.torture
@pytest.mark.parametrize("point", POINTS)
def test_a_second_kill_at_the_same_point_during_recovery_loses_nothing(
    daemon: running.Daemon, steps: list[script.Step], point: str
) -> None:
    trial.Trial(daemon, [f"kill@{point}"] * 2).go_through(steps)
