"""The daemon is killed at each named point, and after many single system calls, while clients use it.

What was acknowledged is there afterwards, what was not is there whole or not at all, and whoever sends a request again
gets what he wanted. `make test` tries a sample, `make torture` everything.
"""

import pathlib
import re
import tempfile
from collections.abc import Iterator

import pytest

from docs import steps_page
from snapd import fsops
from tests.crash import trial
from tests.crash.conftest import GoThrough
from tests.integration import running
from tests.unit.archive import test_kills as archive_kills

POINTS = (
    "archive.after-manifest",
    "archive.after-proof",
    "archive.before-manifest",
    "archive.before-proof",
    "archive.begun",
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
    "capture.begun",
    "capture.committed",
    "capture.flushed",
    "collect.before_commit",
    "collect.begun",
    "collect.committed",
    "create_volume.before_commit",
    "create_volume.begun",
    "create_volume.committed",
    "create_volume.fetched",
    "delete_snapshot.before_commit",
    "delete_snapshot.begun",
    "delete_snapshot.committed",
    "delete_snapshot.manifest_removed",
    "delete_snapshot.run_stopped",
    "delete_volume.before_commit",
    "delete_volume.begun",
    "delete_volume.committed",
    "fold.before_commit",
    "fold.begun",
    "fold.committed",
    "fold.marked",
    "fold.copied",
    "fold.relinked",
    "heads.closed",
    "history.delta_recorded",
    "import_volume.before_commit",
    "import_volume.begun",
    "import_volume.committed",
    "import_volume.converted",
    "import_volume.published",
    "pool.layer_written",
    "qcow2.clusters-durable",
    "qcow2.tables-durable",
    "restore.before_publish",
    "revert.before_commit",
    "revert.begun",
    "revert.committed",
    "scrub.before_commit",
    "scrub.begun",
    "scrub.checked",
    "scrub.committed",
    "upload.flushed",
    "upload.whole",
    "verify_snapshot.before_commit",
    "verify_snapshot.begun",
    "verify_snapshot.committed",
)
IN_THE_ARCHIVE_ALONE = (
    "archive.moves-published",
    "archive.repack-forgotten",
    "archive.repack-listed",
    "archive.repack-removed",
)
"""The daemon passes these once it has gigabytes of garbage; tests/unit/archive/test_kills.py kills there."""
IN_ATTACHMENTS_ALONE = (
    "attach.before_undo",
    "attach.begun",
    "attach.committed",
    "attach.exported",
    "attach.lent",
    "attach.removed",
    "attach.started",
    "detach.before_commit",
    "detach.begun",
    "detach.committed",
    "detach.flushed",
    "detach.removed",
    "live_capture.added",
    "live_capture.begun",
    "live_capture.committed",
    "live_capture.flushed",
    "live_capture.made",
    "live_capture.switched",
    "revive.added",
    "revive.committed",
    "revive.mended",
    "revive.started",
    "storage_daemon.spawned",
)
"""The volumes of these tests are detached; tests/crash/test_attachments.py kills there, and the storage daemon too."""
KINDS = (
    "archive",
    "attach",
    "capture",
    "collect",
    "create_volume",
    "delete_snapshot",
    "delete_volume",
    "detach",
    "fold",
    "import_volume",
    "live_capture",
    "revert",
    "scrub",
    "verify_snapshot",
)
"""Of intents: a point lies between the transaction that opens one and its first step."""
IN_BACKUPS_ALONE = ("backup.copied",)
"""The daemon of these tests makes no backups of its catalog, whose recordings would pass the archive's points before
those of snapshots; tests/crash/test_backups.py kills there."""
SAMPLE = ("archive.after-manifest", "capture.before_commit", "fold.relinked", "restore.before_publish", "upload.whole")


@pytest.fixture
def daemon() -> Iterator[running.Daemon]:
    """Give a daemon that is yet to be started."""
    with tempfile.TemporaryDirectory(prefix="snapd-") as folder:
        state = pathlib.Path(folder, "state")
        daemon = running.Daemon(state, trial.configuration(pathlib.Path(folder), state))
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
    found |= {f"{kind}.begun" for kind in KINDS}
    assert found == {*POINTS, *IN_THE_ARCHIVE_ALONE, *IN_BACKUPS_ALONE, *IN_ATTACHMENTS_ALONE}
    assert set(IN_THE_ARCHIVE_ALONE) < set(archive_kills.MOMENTS)
    assert set(SAMPLE) < found


def test_each_step_of_everything_has_its_points() -> None:
    told: set[str] = set()
    for module in steps_page.MODULES:
        steps = steps_page.steps(module)
        assert any(step.name == "commit" for step in steps), module
        for step in steps:
            told.update(step.points)
            if step.name.startswith(("step", "commit")):
                assert step.points, f"{module}: {step.name}"
    assert told == {*POINTS, *IN_THE_ARCHIVE_ALONE, *IN_BACKUPS_ALONE, *IN_ATTACHMENTS_ALONE}


@pytest.mark.parametrize("point", SAMPLE)
def test_a_kill_at_a_point_loses_nothing(daemon: running.Daemon, go_through: GoThrough, point: str) -> None:
    assert go_through(daemon, [f"kill@{point}"]), f"{point} was never passed"


@pytest.mark.torture
@pytest.mark.parametrize("point", sorted(set(POINTS) - set(SAMPLE)))
def test_a_kill_at_any_other_point_loses_nothing(daemon: running.Daemon, go_through: GoThrough, point: str) -> None:
    assert go_through(daemon, [f"kill@{point}"]), f"{point} was never passed"


@pytest.mark.torture
@pytest.mark.parametrize("occurrence", [2, 3])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_later_pass_loses_nothing(
    daemon: running.Daemon, go_through: GoThrough, point: str, occurrence: int
) -> None:
    # Some points are passed once only; then nothing is killed, and everything has to be right all the same.
    go_through(daemon, [f"kill@{point}:{occurrence}"])


@pytest.mark.torture
@pytest.mark.parametrize("occurrence", [1, 2, 3, 5, 8, 13, 21, 34, 55])
@pytest.mark.parametrize("call", ["fsync", "fdatasync", "rename", "syncdir", "unlink", "create", "pwrite", "link"])
def test_a_kill_before_any_call_loses_nothing(
    daemon: running.Daemon, go_through: GoThrough, call: str, occurrence: int
) -> None:
    go_through(daemon, [f"kill@{call}:{occurrence}"])


@pytest.mark.torture
@pytest.mark.parametrize("point", POINTS)
def test_a_second_kill_at_the_same_point_during_recovery_loses_nothing(
    daemon: running.Daemon, go_through: GoThrough, point: str
) -> None:
    go_through(daemon, [f"kill@{point}"] * 2)
