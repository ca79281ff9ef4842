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
from collections.abc import Iterator

import grpc
import pytest

from snapd import config, faults, fsops
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import script
from tests.integration import running
from tests.unit.service import world

POINTS = (
    "archive.after-manifest",
    "archive.after-proof",
    "archive.before-manifest",
    "archive.before-proof",
    "archive.collect-deleted",
    "archive.collect-forgotten",
    "archive.collect-listed",
    "archive.pack-finished",
    "archive_run.before_commit",
    "archive_run.committed",
    "capture.before_commit",
    "capture.committed",
    "create_volume.before_commit",
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
    assert found == set(POINTS)
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
    struck = _boot(daemon, plan)
    plans_left = [plan] if again else []
    for step in steps:
        while not _sent(daemon, step):
            struck = True
            _boot(daemon, plans_left.pop() if plans_left else "")
            if step is not steps[0]:
                _check_acknowledged(daemon, expected, step.target)
        step.acknowledge(expected)
    struck |= _settle(daemon)
    _check_acknowledged(daemon, expected, "")
    _check_at_rest(daemon)
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


def _sent(daemon: running.Daemon, step: script.Step) -> bool:
    """Send a step's request; False if the daemon was killed before the answer came."""
    try:
        with daemon.client() as client:
            step.send(client)
    except grpc.RpcError as error:
        if error.code() not in _AWAY:
            raise
        _require_killed(daemon)
        return False
    return True


def _settle(daemon: running.Daemon) -> bool:
    """Wait until garbage is collected and layers are folded; return whether the daemon was killed meanwhile."""
    settings = config.defaults(daemon.state_dir).settings
    killed = False

    def settled() -> bool:
        nonlocal killed
        if daemon.process.poll() is not None:
            _require_killed(daemon)
            killed = True
            daemon.start()
        return world.is_settled(settings)

    script.until(settled)
    return killed


def _check_acknowledged(daemon: running.Daemon, expected: script.Expected, changing: str) -> None:
    """Everything that was acknowledged is there with its contents; beside it there is only what is being changed."""
    with daemon.client() as client:
        volume_list = client.volumes.ListVolumes(volumes.ListVolumesRequest(parent=script.PARENT))
        snapshot_list = client.snapshots.ListSnapshots(snapshots.ListSnapshotsRequest(parent=script.PARENT))
        found = {volume.name for volume in volume_list.volumes} | {each.name for each in snapshot_list.snapshots}
        assert found - {changing} == expected.contents.keys() - {changing}
        for volume in volume_list.volumes:
            assert volume.name == changing or volume.state in _STILL
        for snapshot in snapshot_list.snapshots:
            assert snapshot.name == changing or snapshot.state == snapshots.Snapshot.STATE_COMPLETED
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


def _check_at_rest(daemon: running.Daemon) -> None:
    """Stop, look at every row and file, start and stop again, and find everything as it was."""
    settings = config.defaults(daemon.state_dir).settings
    assert daemon.stop() == 0
    world.check_at_rest(settings)
    before = world.fingerprint(settings)
    daemon.start()
    assert daemon.stop() == 0
    world.check_at_rest(settings)
    assert world.fingerprint(settings) == before
