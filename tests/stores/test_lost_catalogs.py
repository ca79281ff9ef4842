"""A real daemon whose catalog, pool or host is lost, on encrypted archives in a folder and in a bucket."""

import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from snapd.client import connection, waiting
from snapd.v1 import environment_service_pb2 as environments
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import system_service_pb2 as system
from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import script
from tests.stores import test_two_hosts as hosts

VOLUME = "environments/blue/volumes/disk"
_SOURCES = pathlib.Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder whose sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="snapd-") as path:
        yield pathlib.Path(path)


class Subject:
    """A daemon that backs its catalog up every few seconds, and the commands for the day on which that is needed."""

    def __init__(self, folder: pathlib.Path, archive: str) -> None:
        self.folder = folder
        self.host = hosts.Host(folder, "host-1", f'catalog_backup_interval = "1s"\n{archive}')
        self.config = folder / "host-1.toml"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snapd", *arguments, "--config", str(self.config)]
        return subprocess.run(command, cwd=_SOURCES, capture_output=True, text=True, check=False)

    def rebuilt(self, *arguments: str, code: int) -> dict[str, Any]:
        ended = self.run("rebuild-catalog", "--json", *arguments)
        assert ended.returncode == code, ended.stderr + ended.stdout
        document: dict[str, Any] = json.loads(ended.stdout)
        return document

    def refusal(self) -> str:
        """Return why the daemon doesn't start."""
        self.host.daemon.launch()
        assert self.host.daemon.ended() == 1
        return self.host.daemon.log.read_text().splitlines()[-1]

    def lose_catalog(self) -> None:
        for path in self.host.state.glob("catalog.sqlite3*"):
            path.unlink()


@pytest.fixture
def subject(folder: pathlib.Path, archive_config: str) -> Subject:
    return Subject(folder, archive_config)


def _live(client: connection.Client, folder: pathlib.Path) -> dict[str, bytes]:
    """Make a volume with an archived, a rapid and an unsaved state; return what must be there, by names."""
    rng = random.Random(11)
    half = hosts.SIZE // 2
    first, second, third = (rng.randbytes(half) for _ in range(3))
    client.environments.CreateEnvironment(environments.CreateEnvironmentRequest(environment_id="blue"))
    hosts.import_disk(client, folder, "disk", first + second)
    hosts.archive_snapshot(client, "disk", "archived")
    _wait_for_a_backup(client)
    _write(client, third)
    _capture(client, "rapid")
    _write(client, second)
    return {
        "environments/blue/snapshots/archived": first + second,
        "environments/blue/snapshots/rapid": third + second,
        VOLUME: second + second,
    }


def _write(client: connection.Client, data: bytes) -> None:
    def messages() -> Iterator[volumes.WriteBlocksRequest]:
        yield volumes.WriteBlocksRequest(start=volumes.WriteBlocksRequest.Start(name=VOLUME))
        for offset in range(0, len(data), 1 << 20):
            yield volumes.WriteBlocksRequest(data=script._chunk(offset, data[offset : offset + (1 << 20)]))

    for _ in client.volumes.WriteBlocks(messages()):
        pass


def _capture(client: connection.Client, name: str) -> None:
    request = snapshots.CreateSnapshotRequest(
        parent="environments/blue",
        snapshot_id=name,
        rapid=True,
        snapshot=snapshots.Snapshot(source_volume=VOLUME, labels={"kept": "yes"}),
    )
    client.snapshots.CreateSnapshot(request)


def _wait_for_a_backup(client: connection.Client) -> None:
    """Wait for one that is made from now on."""
    get = system.GetServerInfoRequest()
    before = client.system.GetServerInfo(get).catalog_backup_time.ToNanoseconds()
    script.until(lambda: client.system.GetServerInfo(get).catalog_backup_time.ToNanoseconds() > before)


def _require(client: connection.Client, expected: dict[str, bytes]) -> None:
    for name, data in expected.items():
        assert hosts.exported(client, name) == data, name


def test_a_lost_catalog_is_rebuilt_and_the_daemon_goes_on(subject: Subject) -> None:
    daemon = subject.host.daemon
    with ExitStack() as stack:
        daemon.start()
        stack.callback(daemon.kill)
        client = stack.enter_context(connection.connect(str(daemon.socket)))
        expected = _live(client, subject.folder)
        daemon.kill()
        subject.lose_catalog()
        assert "rebuild-catalog" in subject.refusal()
        told = subject.rebuilt(code=1)
        assert told["began_with"].startswith("backup-")
        assert [entry["name"] for entry in told["recovered"]] in (
            ["environments/blue/snapshots/rapid"],
            # The backup after the import was made before the volume was; the one after that is newer than the volume.
            ["environments/blue/snapshots/rapid", VOLUME],
        )
        assert (told["lost"], told["left_alone"]) == ([], [])
        daemon.start()
        client = stack.enter_context(connection.connect(str(daemon.socket)))
        _require(client, expected)
        taken = client.snapshots.GetSnapshot(
            snapshots.GetSnapshotRequest(name="environments/blue/snapshots/rapid")
        ).snapshot
        assert taken.recovered
        assert dict(taken.labels) == {"kept": "yes"}
        answer = client.snapshots.ArchiveSnapshot(snapshots.ArchiveSnapshotRequest(name=taken.name))
        waiting.wait(client, answer.operation)
        _require(client, expected)
        assert daemon.stop() == 0
    checked = subject.run("fsck", "--images")
    assert checked.returncode == 0, checked.stdout


def test_what_a_lost_host_archived_is_listed_by_the_one_that_takes_its_place(subject: Subject) -> None:
    daemon = subject.host.daemon
    with ExitStack() as stack:
        daemon.start()
        stack.callback(daemon.kill)
        client = stack.enter_context(connection.connect(str(daemon.socket)))
        expected = _live(client, subject.folder)
        _wait_for_a_backup(client)
        # In order, since the lease of one that was killed runs for minutes.
        assert daemon.stop() == 0
        shutil.rmtree(subject.host.state)
        adopted = subject.run("archive", "adopt", "--yes")
        assert adopted.returncode == 0, adopted.stderr
        assert subject.run("rebuild-catalog").returncode == 2, "a pool that isn't there may only not be mounted"
        told = subject.rebuilt("--pool-lost", code=1)
        assert [entry["name"] for entry in told["lost"]] == ["environments/blue/snapshots/rapid", VOLUME]
        daemon.start()
        client = stack.enter_context(connection.connect(str(daemon.socket)))
        archived = "environments/blue/snapshots/archived"
        _require(client, {archived: expected[archived]})
        again = volumes.CreateVolumeRequest(
            parent="environments/blue",
            volume_id="again",
            volume=volumes.Volume(role=volumes.Volume.ROLE_DATA, source_snapshot=archived),
        )
        waiting.wait(client, client.volumes.CreateVolume(again).operation)
        _require(client, {"environments/blue/volumes/again": expected[archived]})
        client.volumes.DeleteVolume(volumes.DeleteVolumeRequest(name=VOLUME))
        gone = client.snapshots.DeleteSnapshot(
            snapshots.DeleteSnapshotRequest(name="environments/blue/snapshots/rapid")
        )
        waiting.wait(client, gone.operation)
        hosts.archive_snapshot(client, "again", "next")
        assert daemon.stop() == 0
    checked = subject.run("fsck", "--images")
    assert checked.returncode == 0, checked.stdout
