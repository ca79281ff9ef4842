"""The daemon is killed at each point of attaching, detaching and live captures; its storage daemon lives or dies too.

What the guest was told is written is there, what was begun is undone or finished as its table says, and whoever sends a
request again gets what he wanted. `make test` tries a sample, `make torture` everything.
"""

import pathlib
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing

import grpc
import pytest

from snapd import config, faults, units
from snapd.v1 import attachment_pb2
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import volume_service_pb2 as volumes
from tests import storagedaemons
from tests.crash import script, trial
from tests.crash.test_kills import IN_ATTACHMENTS_ALONE
from tests.integration import running
from tests.unit.live.world import Guest
from tests.unit.service import checker

NAME = script.volume_name("v")
BLOCK = 4 * units.KIB
SIZE = 2 * units.MIB
ATTACH = (*(point for point in IN_ATTACHMENTS_ALONE if point.startswith("attach.")), "storage_daemon.spawned")
UNDO = ("attach.removed", "attach.before_undo")
DETACH = tuple(point for point in IN_ATTACHMENTS_ALONE if point.startswith("detach."))
CAPTURE = (*(point for point in IN_ATTACHMENTS_ALONE if point.startswith("live_capture.")), "pool.layer_written")
A_B_C = [letter * BLOCK for letter in (b"a", b"b", b"c")]
BOTH = pytest.mark.parametrize("alone", [True, False], ids=["process there", "process dead"])


class World:
    """A daemon with a volume that is to be attached, and what was written to it."""

    def __init__(self, folder: pathlib.Path) -> None:
        state = folder / "state"
        self.daemon = running.Daemon(state, trial.configuration(folder, state))
        self.settings = config.defaults(state).settings
        self.attaching = volumes.AttachVolumeRequest(name=NAME, request_id=str(uuid.uuid4()))
        self.detaching = volumes.DetachVolumeRequest(name=NAME, request_id=str(uuid.uuid4()))
        self.capturing = snapshots.CreateSnapshotRequest(
            parent=script.PARENT,
            snapshot_id="s",
            snapshot=snapshots.Snapshot(source_volume=NAME),
            rapid=True,
            request_id=str(uuid.uuid4()),
        )

    @property
    def exports(self) -> pathlib.Path:
        return self.settings.live.exports_path

    def start(self, *plans: str) -> None:
        """Start the daemon with a plan of faults, or with none."""
        self.daemon.start(**{faults.VARIABLE: ",".join(plans)})

    def make_volume(self) -> None:
        """Make the volume, with a first block."""
        self.start()
        with self.daemon.client() as client:
            script.environment().send(client)
            data = b"a" * BLOCK + bytes(SIZE - BLOCK)
            script.import_volume("v", data, data).send(client)
        assert self.daemon.stop() == 0

    def attach(self) -> attachment_pb2.Attachment:
        """Attach it, or say what the same request made."""
        with self.daemon.client() as client:
            return client.volumes.AttachVolume(self.attaching).volume.attachment

    def detach(self) -> volumes.Volume:
        """Detach it."""
        with self.daemon.client() as client:
            return client.volumes.DetachVolume(self.detaching).volume

    def capture(self) -> snapshots.Snapshot:
        """Take a snapshot of it, or say what the same request made."""
        with self.daemon.client() as client:
            return client.snapshots.CreateSnapshot(self.capturing).snapshot

    def snapshot_names(self) -> list[str]:
        """Return the names of its snapshots."""
        with self.daemon.client() as client:
            listed = client.snapshots.ListSnapshots(snapshots.ListSnapshotsRequest(parent=script.PARENT))
            return [found.name for found in listed.snapshots]

    def volume(self) -> volumes.Volume:
        """Return it as it is."""
        with self.daemon.client() as client:
            return client.volumes.GetVolume(volumes.GetVolumeRequest(name=NAME)).volume

    def write(self, block: int, data: bytes) -> None:
        """Write as a guest that comes and goes."""
        nbd = self.volume().attachment.nbd
        with closing(Guest(pathlib.Path(nbd.socket), nbd.export)) as guest:
            assert guest.write(block * BLOCK, data) == 0

    def die(self, call: str, *, alone: bool) -> None:
        """Have the daemon killed during a call, and its storage daemons too if it doesn't die alone."""
        with pytest.raises(grpc.RpcError):
            getattr(self, call)()
        assert self.daemon.ended() == -9, self.daemon.log.read_text()
        if not alone:
            storagedaemons.end(self.exports)

    def require_contents(self, name: str, blocks: Sequence[bytes]) -> None:
        """Compare all that a volume or a snapshot holds."""
        found = b""
        with self.daemon.client() as client:
            for piece in client.volumes.ExportVolume(volumes.ExportVolumeRequest(source=name)):
                found += piece.data.data if piece.WhichOneof("message") == "data" else bytes(piece.hole.length)
        assert found == b"".join(blocks).ljust(SIZE, b"\0")

    def check(self, blocks: Sequence[bytes]) -> None:
        """Detach it if it isn't, compare all that it holds, and look at every row and file."""
        if self.volume().HasField("attachment"):
            assert not self.detach().HasField("attachment")
        self.require_contents(NAME, blocks)
        assert self.daemon.stop() == 0
        checker.check_at_rest(self.settings)
        assert not storagedaemons.found(self.exports)


@pytest.fixture
def world() -> Iterator[World]:
    with storagedaemons.folder() as folder:
        world = World(folder)
        world.make_volume()
        try:
            yield world
        finally:
            world.daemon.kill()


def _attach(world: World, point: str, *, alone: bool) -> None:
    world.start(f"kill@{point}")
    world.die("attach", alone=alone)
    world.start()
    found = world.volume()
    if point != "attach.committed":
        assert not found.HasField("attachment")
        assert not storagedaemons.found(world.exports)
        assert world.attach().state == attachment_pb2.Attachment.STATE_ATTACHED
    elif alone:
        assert world.attach() == found.attachment
        assert found.attachment.state == attachment_pb2.Attachment.STATE_ATTACHED
    else:
        assert found.attachment.state == attachment_pb2.Attachment.STATE_CRASHED
        world.attaching.request_id = ""
        assert world.attach().nbd.socket != found.attachment.nbd.socket
    world.write(1, b"b" * BLOCK)
    world.check([b"a" * BLOCK, b"b" * BLOCK])


def _detach(world: World, points: Sequence[str], *, alone: bool) -> None:
    world.start(f"kill@{points[0]}")
    world.attach()
    world.write(1, b"b" * BLOCK)
    world.die("detach", alone=alone)
    for point in points[1:]:
        with pytest.raises(AssertionError):
            world.start(f"kill@{point}")
        assert world.daemon.ended() == -9
    world.start()
    # It was finished before anybody was served, and the same call again says so.
    assert not world.volume().HasField("attachment")
    assert not storagedaemons.found(world.exports)
    assert not world.detach().HasField("attachment")
    world.check([b"a" * BLOCK, b"b" * BLOCK])


def _capture(world: World, points: Sequence[str], *, alone: bool) -> None:
    """Kill the daemon while it captures: what was answered before is in the snapshot, if there is one, or in the next.

    With the process there, the guest writes on between the kill and the next start.
    """
    world.start(f"kill@{points[0]}")
    nbd = world.attach().nbd
    with closing(Guest(pathlib.Path(nbd.socket), nbd.export)) as guest:
        assert guest.write(BLOCK, A_B_C[1]) == 0
        world.die("capture", alone=alone)
        if alone:
            assert guest.write(2 * BLOCK, A_B_C[2]) == 0
        for point in points[1:]:
            with pytest.raises(AssertionError):
                world.start(f"kill@{point}")
            assert world.daemon.ended() == -9
        world.start()
        switched = points[0] in ("live_capture.switched", "live_capture.committed")
        assert bool(world.snapshot_names()) == (switched or not alone), "the graph decides, or it goes forward"
        name = world.capture().name
        world.require_contents(name, A_B_C if alone and not switched else A_B_C[:2])
        if alone:
            # The guest notices nothing.
            assert guest.read(0, 3 * BLOCK) == b"".join(A_B_C)
    expected = "STATE_ATTACHED" if alone else "STATE_CRASHED"
    assert world.volume().attachment.state == attachment_pb2.Attachment.State.Value(expected)
    world.check(A_B_C if alone else A_B_C[:2])


@BOTH
@pytest.mark.parametrize("point", ["live_capture.flushed", "live_capture.switched"])
def test_a_capture_of_a_live_volume_that_is_killed_loses_nothing(world: World, point: str, alone: bool) -> None:
    _capture(world, [point], alone=alone)


@pytest.mark.torture
@BOTH
@pytest.mark.parametrize("point", sorted({*CAPTURE} - {"live_capture.flushed", "live_capture.switched"}))
def test_a_capture_of_a_live_volume_that_is_killed_elsewhere_loses_nothing(
    world: World, point: str, alone: bool
) -> None:
    _capture(world, [point], alone=alone)


@pytest.mark.torture
@pytest.mark.parametrize("point", ["live_capture.begun", "live_capture.added", "live_capture.switched"])
def test_a_capture_that_is_killed_when_it_goes_forward_too_loses_nothing(world: World, point: str) -> None:
    _capture(world, [point, "live_capture.committed"], alone=False)


@BOTH
def test_an_attach_that_is_killed_loses_nothing(world: World, alone: bool) -> None:
    _attach(world, "attach.exported", alone=alone)


@BOTH
def test_a_detach_that_is_killed_is_finished(world: World, alone: bool) -> None:
    _detach(world, ["detach.flushed"], alone=alone)


@pytest.mark.torture
@BOTH
@pytest.mark.parametrize("point", sorted({*ATTACH} - {*UNDO, "attach.exported"}))
def test_an_attach_that_is_killed_at_any_other_point_loses_nothing(world: World, point: str, alone: bool) -> None:
    _attach(world, point, alone=alone)


@pytest.mark.torture
@BOTH
@pytest.mark.parametrize("point", sorted({*DETACH} - {"detach.flushed"}))
def test_a_detach_that_is_killed_at_any_other_point_is_finished(world: World, point: str, alone: bool) -> None:
    _detach(world, [point], alone=alone)


@pytest.mark.torture
@BOTH
@pytest.mark.parametrize("point", sorted({*DETACH} - {"detach.begun", "detach.committed"}))
def test_a_detach_that_is_killed_in_recovery_too_is_finished(world: World, point: str, alone: bool) -> None:
    _detach(world, [point] * 2, alone=alone)


@pytest.mark.torture
@BOTH
@pytest.mark.parametrize("point", UNDO)
def test_an_attach_whose_undoing_is_killed_is_undone(world: World, point: str, alone: bool) -> None:
    world.start("kill@attach.exported")
    world.die("attach", alone=alone)
    with pytest.raises(AssertionError):
        world.start(f"kill@{point}")
    assert world.daemon.ended() == -9
    world.start()
    assert not world.volume().HasField("attachment")
    assert world.attach().state == attachment_pb2.Attachment.STATE_ATTACHED
    world.check([b"a" * BLOCK])


@pytest.mark.torture
@pytest.mark.parametrize(
    ("point", "found"),
    [
        ("revive.mended", "STATE_CRASHED"),
        ("storage_daemon.spawned:2", "STATE_CRASHED"),
        ("revive.started", "STATE_ATTACHED"),
        ("revive.added", "STATE_ATTACHED"),
        ("revive.committed", "STATE_ATTACHED"),
    ],
)
def test_a_kill_while_a_dead_storage_daemon_is_started_anew_loses_nothing(world: World, point: str, found: str) -> None:
    world.start(f"kill@{point}")
    attached = world.attach()
    world.write(1, A_B_C[1])
    assert storagedaemons.end(world.exports) == 1
    assert world.daemon.ended() == -9
    world.start()
    again = world.volume().attachment
    assert again.state == attachment_pb2.Attachment.State.Value(found)
    if again.state == attachment_pb2.Attachment.STATE_ATTACHED:
        assert (again.nbd, again.generation) == (attached.nbd, 2)
        world.write(2, A_B_C[2])
        world.check(A_B_C)
    else:
        assert not storagedaemons.found(world.exports)
        world.check(A_B_C[:2])


@BOTH
def test_an_attached_volume_outlives_a_kill(world: World, alone: bool) -> None:
    world.start()
    attached = world.attach()
    assert stat.S_IMODE(world.exports.stat().st_mode) == 0o711, "hypervisors have other accounts"
    with closing(Guest(pathlib.Path(attached.nbd.socket), attached.nbd.export)) as guest:
        assert guest.write(BLOCK, b"b" * BLOCK) == 0
        world.daemon.kill()
        if alone:
            assert guest.write(2 * BLOCK, b"c" * BLOCK) == 0
        else:
            storagedaemons.end(world.exports)
        world.start()
        if alone:
            assert guest.read(0, 3 * BLOCK) == b"a" * BLOCK + b"b" * BLOCK + b"c" * BLOCK
    expected = "STATE_ATTACHED" if alone else "STATE_CRASHED"
    assert world.volume().attachment.state == attachment_pb2.Attachment.State.Value(expected)
    world.check([b"a" * BLOCK, b"b" * BLOCK, *([b"c" * BLOCK] if alone else [])])
