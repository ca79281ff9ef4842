"""A virtual machine whose disks are attached volumes: it writes, and everything else happens to its disks meanwhile."""

import pathlib
from collections.abc import Iterator
from typing import TypeAlias

import pytest

from snapd import config, units
from snapd.v1 import attachment_pb2
from snapd.v1 import volume_service_pb2 as volumes
from tests import storagedaemons
from tests.crash import script, trial
from tests.guest import contents, machine, parts
from tests.integration import running
from tests.unit.service import checker

Way: TypeAlias = attachment_pb2.Attachment.Way.ValueType

SIZE = 4 * units.MIB
DISKS = {"vda": "root", "vdb": "data"}


@pytest.fixture
def daemon() -> Iterator[running.Daemon]:
    """Run a daemon whose storage daemons end with the test."""
    if reason := parts.missing(parts.FOLDER):
        pytest.skip(reason)
    with storagedaemons.folder() as folder:
        state = folder / "state"
        daemon = running.Daemon(state, trial.configuration(folder, state))
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.kill()


def _create(client: running.Client, volume_id: str) -> None:
    """Make an empty volume of the one instance, so that one storage daemon serves them all."""
    created = client.volumes.CreateVolume(
        volumes.CreateVolumeRequest(
            parent=script.PARENT, volume_id=volume_id, volume=volumes.Volume(size_bytes=SIZE, instance="machine")
        )
    )
    script.succeed(client, created.operation)


def _attach(client: running.Client, number: int, volume_id: str, way: Way) -> list[str]:
    """Attach a volume, and return what the machine is told of the disk."""
    request = volumes.AttachVolumeRequest(name=script.volume_name(volume_id), way=way)
    served = client.volumes.AttachVolume(request).volume.attachment
    if way == attachment_pb2.Attachment.WAY_VHOST_USER_BLK:
        return machine.by_vhost_user(number, served.vhost_user.socket)
    return machine.by_nbd(number, served.nbd.socket, served.nbd.export)


def _attachment(client: running.Client, volume_id: str) -> attachment_pb2.Attachment:
    return client.volumes.GetVolume(volumes.GetVolumeRequest(name=script.volume_name(volume_id))).volume.attachment


def _limit(client: running.Client, volume_id: str, iops: int) -> None:
    client.volumes.SetVolumeLimits(
        volumes.SetVolumeLimitsRequest(
            name=script.volume_name(volume_id), limits=attachment_pb2.AttachmentLimits(iops=iops)
        )
    )


def _content(client: running.Client, name: str) -> bytes:
    pieces = client.volumes.ExportVolume(volumes.ExportVolumeRequest(source=name))
    return b"".join(piece.data.data or bytes(piece.hole.length) for piece in pieces)


class Snapshots:
    """The snapshots that were taken while the guest wrote, and how far it had come."""

    def __init__(self, guest: machine.Machine) -> None:
        self._guest = guest
        self._least: dict[str, int] = {}

    def take(self, client: running.Client, name: str, *, rapid: bool) -> None:
        """Take one of each disk."""
        for disk, volume_id in DISKS.items():
            self._least[f"{volume_id}-{name}"] = self._guest.acknowledged[disk]
            script.snapshot(f"{volume_id}-{name}", volume_id, rapid=rapid).send(client)

    def require(self, client: running.Client) -> None:
        """Require that each has all that was acknowledged when it was asked for, and of what came after a prefix."""
        for snapshot_id, least in self._least.items():
            contents.require_prefix(_content(client, script.snapshot_name(snapshot_id)), least)


@pytest.mark.parametrize(
    "way", [attachment_pb2.Attachment.WAY_NBD, attachment_pb2.Attachment.WAY_VHOST_USER_BLK], ids=["nbd", "vhost-user"]
)
def test_a_guest_writes_on_while_its_disks_are_captured_and_all_daemons_die(
    daemon: running.Daemon, tmp_path: pathlib.Path, way: Way
) -> None:
    with daemon.client() as client:
        script.environment().send(client)
        for volume_id in DISKS.values():
            _create(client, volume_id)
        disks = [_attach(client, number, volume_id, way) for number, volume_id in enumerate(DISKS.values())]
        with machine.Machine(tmp_path, disks) as guest:
            snapshots = Snapshots(guest)
            guest.wait("vdb", 5)
            for number in range(5):
                snapshots.take(client, f"rapid-{number}", rapid=True)
                guest.wait("vdb", 3)
            # A regular one is archived beside the guest; `send` waits for that.
            snapshots.take(client, "regular", rapid=False)
            daemon.kill()
            guest.wait("vdb", 20)
            daemon.start()
            assert _attachment(client, "root").state == attachment_pb2.Attachment.STATE_ATTACHED
            guest.wait("vdb", 3)
            snapshots.take(client, "after-a-restart", rapid=True)
            _limit(client, "data", 20)
            guest.wait("vdb", 5)
            _limit(client, "data", 0)
            settings = config.defaults(daemon.state_dir).settings
            assert storagedaemons.end(settings.live.exports_path) == 1
            guest.wait("vdb", 10)
            assert _attachment(client, "root").generation == 2
            snapshots.take(client, "last", rapid=True)
            guest.wait("vdb", 3)
            guest.cut()
        assert guest.console == []
        for disk, volume_id in DISKS.items():
            name = script.volume_name(volume_id)
            client.volumes.DetachVolume(volumes.DetachVolumeRequest(name=name))
            contents.require_prefix(_content(client, name), guest.acknowledged[disk])
        snapshots.require(client)
        script.until(lambda: checker.is_settled(settings))
    assert daemon.stop() == 0
    checker.check_at_rest(settings)
