"""The daemon is killed at each named point, and after many single system calls, while clients use it.

What was acknowledged is there afterwards, what was not is there whole or not at all, and whoever sends a request again
gets what he wanted. `make test` tries a sample, `make torture` everything.
"""

import contextlib
import pathlib
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import grpc
import pytest

from snapd import config, faults, fsops
from snapd.service import settings as service_settings
from snapd.v1 import environment_service_pb2
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import script
from tests.integration import running
from tests.unit.archive import test_kills as archive_kills
from tests.unit.service import checker

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
    "create_volume.before_commit",
    "create_volume.fetched",
    "delete_snapshot.before_commit",
    "delete_snapshot.committed",
    "delete_snapshot.manifest_removed",
    "delete_volume.before_commit",
    "delete_volume.committed",
    "fold.before_commit",
    "fold.committed",
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
    "upload.flushed",
    "upload.whole",
)
IN_THE_ARCHIVE_ALONE = (
    "archive.moves-published",
    "archive.repack-forgotten",
    "archive.repack-listed",
    "archive.repack-removed",
)
"""The daemon passes these once it has gigabytes of garbage; tests/unit/archive/test_kills.py kills there."""
SAMPLE = ("archive.after-manifest", "capture.before_commit", "fold.relinked", "restore.before_publish", "upload.whole")

_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
_STILL = (volumes.Volume.STATE_READY, volumes.Volume.STATE_SNAPSHOT_IN_PROGRESS)


@pytest.fixture
def daemon() -> Iterator[running.Daemon]:
    """Give a daemon that is yet to be started."""
    with tempfile.TemporaryDirectory(prefix="snapd-") as folder:
        daemon = running.Daemon(pathlib.Path(folder, "state"))
        try:
            yield daemon
        finally:
            daemon.kill()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[script.Step]:
    """Give the script."""
    folder = tmp_path_factory.mktemp("image")
    raw, image = folder / "disk.raw", folder / "disk.qcow2"
    data = script.noise(script.SIZE)
    raw.write_bytes(data)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(image)], check=True)
    return script.script(image.read_bytes(), data)


def test_no_point_is_forgotten() -> None:
    sources = pathlib.Path(fsops.__file__).parent
    found = {
        point
        for path in sources.rglob("*.py")
        for point in re.findall(r"fsops\.point\(\"([^\"]+)\"\)", path.read_text())
    }
    assert found == {*POINTS, *IN_THE_ARCHIVE_ALONE}
    assert set(IN_THE_ARCHIVE_ALONE) < set(archive_kills.MOMENTS)
    assert set(SAMPLE) < found


@pytest.mark.parametrize("point", SAMPLE)
def test_a_kill_at_a_point_loses_nothing(daemon: running.Daemon, steps: list[script.Step], point: str) -> None:
    assert _killed_at(f"kill@{point}", daemon, steps), f"{point} was never passed"


@pytest.mark.torture
@pytest.mark.parametrize("point", sorted(set(POINTS) - set(SAMPLE)))
def test_a_kill_at_any_other_point_loses_nothing(daemon: running.Daemon, steps: list[script.Step], point: str) -> None:
    assert _killed_at(f"kill@{point}", daemon, steps), f"{point} was never passed"


@pytest.mark.torture
@pytest.mark.parametrize("occurrence", [2, 3])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_later_pass_loses_nothing(
    daemon: running.Daemon, steps: list[script.Step], point: str, occurrence: int
) -> None:
    # Some points are passed once only; then nothing is killed, and everything has to be right all the same.
    _killed_at(f"kill@{point}:{occurrence}", daemon, steps)


@pytest.mark.torture
@pytest.mark.parametrize("occurrence", [1, 2, 3, 5, 8, 13, 21, 34, 55])
@pytest.mark.parametrize("call", ["fsync", "fdatasync", "rename", "syncdir", "unlink", "create", "pwrite", "link"])
def test_a_kill_before_any_call_loses_nothing(
    daemon: running.Daemon, steps: list[script.Step], call: str, occurrence: int
) -> None:
    _killed_at(f"kill@{call}:{occurrence}", daemon, steps)


@pytest.mark.torture
@pytest.mark.parametrize("point", POINTS)
def test_a_second_kill_at_the_same_point_during_recovery_loses_nothing(
    daemon: running.Daemon, steps: list[script.Step], point: str
) -> None:
    _killed_at(f"kill@{point}", daemon, steps, again=True)


def _killed_at(plan: str, daemon: running.Daemon, steps: list[script.Step], *, again: bool = False) -> bool:
    """Go through the script with faults, and without them from where they struck; return whether they did."""
    expected = script.Expected()
    plans = [plan] if again else []
    struck = _boot(daemon, plan)

    def insist(work: Callable[[running.Client], None], changing: str) -> None:
        nonlocal struck
        while not _done(daemon, work):
            struck = True
            _boot(daemon, plans.pop() if plans else "")
            _done(daemon, lambda client: _check_acknowledged(client, expected, changing))

    for step in steps:
        insist(step.send, step.target)
        step.acknowledge(expected)
    settings = config.defaults(daemon.state_dir).settings
    insist(lambda client: script.until(lambda: _serves(client) and checker.is_settled(settings)), "")
    insist(lambda client: _check_acknowledged(client, expected, ""), "")
    _check_at_rest(daemon, settings)
    return struck


def _boot(daemon: running.Daemon, plan: str) -> bool:
    """Start a daemon with faults; if they strike before it serves, start it without, and return True."""
    if plan:
        # A daemon that ends before it serves shows in one of several ways, depending on how far it came.
        with contextlib.suppress(AssertionError, BlockingIOError, grpc.RpcError):
            daemon.start(**{faults.VARIABLE: plan})
            return False
        _require_killed(daemon)
    daemon.start()
    return bool(plan)


def _require_killed(daemon: running.Daemon) -> None:
    assert daemon.ended() == -signal.SIGKILL, daemon.log.read_text()


def _done(daemon: running.Daemon, work: Callable[[running.Client], None]) -> bool:
    """Work with a client; False if the daemon was killed meanwhile, and has to be started again."""
    if daemon.process.poll() is None:
        try:
            with daemon.client() as client:
                work(client)
        except grpc.RpcError as error:
            if error.code() not in _AWAY:
                raise
        else:
            return True
    _require_killed(daemon)
    return False


def _serves(client: running.Client) -> bool:
    client.environments.GetEnvironment(environment_service_pb2.GetEnvironmentRequest(name=script.PARENT))
    return True


def _check_acknowledged(client: running.Client, expected: script.Expected, changing: str) -> None:
    """Everything that was acknowledged is there with its contents; beside it there is only what is being changed."""
    if changing == script.PARENT:
        return
    volume_list = client.volumes.ListVolumes(volumes.ListVolumesRequest(parent=script.PARENT)).volumes
    snapshot_list = client.snapshots.ListSnapshots(snapshots.ListSnapshotsRequest(parent=script.PARENT)).snapshots
    found = {volume.name for volume in volume_list} | {snapshot.name for snapshot in snapshot_list}
    assert found - {changing} == expected.contents.keys() - {changing}
    assert all(volume.name == changing or volume.state in _STILL for volume in volume_list)
    assert all(each.name == changing or each.state == snapshots.Snapshot.STATE_COMPLETED for each in snapshot_list)
    for name, contents in expected.contents.items():
        if name != changing:
            assert _exported(client, name) == contents, f"{name} has other contents"


def _exported(client: running.Client, name: str) -> bytes:
    parts = []
    for piece in client.volumes.ExportVolume(volumes.ExportVolumeRequest(source=name)):
        if piece.WhichOneof("message") == "data":
            parts.append(piece.data.data)
        elif piece.WhichOneof("message") == "hole":
            parts.append(bytes(piece.hole.length))
    return b"".join(parts)


def _check_at_rest(daemon: running.Daemon, settings: service_settings.Settings) -> None:
    """Stop, look at every row and file, start and stop again, and find everything as it was."""
    if daemon.stop() != 0:
        # Faults may strike to the very end.
        _require_killed(daemon)
        daemon.start()
        assert daemon.stop() == 0
    checker.check_at_rest(settings)
    before = checker.fingerprint(settings)
    daemon.start()
    assert daemon.stop() == 0
    checker.check_at_rest(settings)
    assert checker.fingerprint(settings) == before
