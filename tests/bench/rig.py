"""A real daemon for the archive's benchmarks, driven over its API, and what it took of time, processors and memory."""

import os
import pathlib
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import google_crc32c

from snapd import units
from snapd.client import connection, upload, waiting
from snapd.v1 import environment_service_pb2, snapshot_service_pb2, transfer_pb2, volume_service_pb2
from tests.bench import disks, timing
from tests.integration import running

_PATIENCE_S = 600.0
_LOOK_AGAIN_S = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")

Piece = tuple[int, bytes]
"""Offset and bytes of a write, at most 1 MiB, both multiples of 512."""


class Rig:
    """A running daemon, whose volume `disk` of an environment is what is archived."""

    def __init__(self, daemon: running.Daemon, client: connection.Client) -> None:
        self.daemon = daemon
        self.client = client

    # --- volumes ---

    def import_disk(self, environment: str, raw: pathlib.Path) -> None:
        """Make an environment whose volume `disk` is a raw image."""
        self.create_environment(environment)
        start = volume_service_pb2.ImportVolumeRequest.Start(
            parent=f"environments/{environment}",
            volume_id="disk",
            volume=volume_service_pb2.Volume(role=volume_service_pb2.Volume.ROLE_ROOT),
            format=volume_service_pb2.IMAGE_FORMAT_RAW,
        )
        answer = upload.import_volume(self.client, raw, start)
        if answer.operation:
            waiting.wait(self.client, answer.operation)

    def create_environment(self, environment: str) -> None:
        """Make an environment without volumes."""
        request = environment_service_pb2.CreateEnvironmentRequest(environment_id=environment)
        self.client.environments.CreateEnvironment(request)

    def create_volume(self, environment: str, size_bytes: int) -> None:
        """Make an empty volume `disk`."""
        volume = volume_service_pb2.Volume(role=volume_service_pb2.Volume.ROLE_DATA, size_bytes=size_bytes)
        request = volume_service_pb2.CreateVolumeRequest(
            parent=f"environments/{environment}", volume_id="disk", volume=volume
        )
        answer = self.client.volumes.CreateVolume(request)
        if answer.operation:
            waiting.wait(self.client, answer.operation)

    def restore(self, environment: str, snapshot_id: str, volume_id: str) -> timing.Sample:
        """Make a volume of a snapshot, and return what it took until the volume was READY."""
        volume = volume_service_pb2.Volume(
            role=volume_service_pb2.Volume.ROLE_ROOT,
            source_snapshot=f"environments/{environment}/snapshots/{snapshot_id}",
        )
        request = volume_service_pb2.CreateVolumeRequest(
            parent=f"environments/{environment}", volume_id=volume_id, volume=volume
        )
        name = f"environments/{environment}/volumes/{volume_id}"

        def run() -> None:
            answer = self.client.volumes.CreateVolume(request)
            waiting.wait(self.client, answer.operation)
            found = self.client.volumes.GetVolume(volume_service_pb2.GetVolumeRequest(name=name)).volume
            assert found.state == volume_service_pb2.Volume.STATE_READY, found

        return self.timed(run)

    def delete_volume(self, environment: str, volume_id: str) -> None:
        """Delete a volume."""
        request = volume_service_pb2.DeleteVolumeRequest(name=f"environments/{environment}/volumes/{volume_id}")
        answer = self.client.volumes.DeleteVolume(request)
        if answer.operation:
            waiting.wait(self.client, answer.operation)

    def write(self, environment: str, pieces: Iterable[Piece]) -> None:
        """Write into the volume `disk`; the pieces ascend and don't overlap. All is durable on return."""
        name = f"environments/{environment}/volumes/disk"

        def messages() -> Iterator[volume_service_pb2.WriteBlocksRequest]:
            yield volume_service_pb2.WriteBlocksRequest(start=volume_service_pb2.WriteBlocksRequest.Start(name=name))
            for offset, data in pieces:
                chunk = transfer_pb2.DataChunk(offset=offset, data=data, crc32c=google_crc32c.value(data))
                yield volume_service_pb2.WriteBlocksRequest(data=chunk)

        for _ in self.client.volumes.WriteBlocks(messages()):
            pass

    # --- snapshots ---

    def snapshot(self, environment: str, snapshot_id: str, *, rapid: bool = False) -> timing.Sample:
        """Snapshot the volume `disk`, and return what it took until it was COMPLETED: unless it is rapid, proven."""
        snapshot = snapshot_service_pb2.Snapshot(source_volume=f"environments/{environment}/volumes/disk")
        request = snapshot_service_pb2.CreateSnapshotRequest(
            parent=f"environments/{environment}", snapshot_id=snapshot_id, snapshot=snapshot, rapid=rapid
        )
        return self._timed_snapshot(
            environment,
            snapshot_id,
            lambda: self.client.snapshots.CreateSnapshot(request).operation,
            archived=not rapid,
        )

    def archive(self, environment: str, snapshot_id: str) -> timing.Sample:
        """Have a rapid snapshot archived, and return what it took until that was proven."""
        request = snapshot_service_pb2.ArchiveSnapshotRequest(
            name=f"environments/{environment}/snapshots/{snapshot_id}"
        )
        return self._timed_snapshot(
            environment, snapshot_id, lambda: self.client.snapshots.ArchiveSnapshot(request).operation, archived=True
        )

    def _timed_snapshot(
        self, environment: str, snapshot_id: str, begin: Callable[[], str], *, archived: bool
    ) -> timing.Sample:
        def run() -> None:
            waiting.wait(self.client, begin())
            found = self.find(environment, snapshot_id)
            assert found.state == snapshot_service_pb2.Snapshot.STATE_COMPLETED, found
            assert not archived or found.archive.state == snapshot_service_pb2.Snapshot.Archive.STATE_ARCHIVED, found

        return self.timed(run)

    def find(self, environment: str, snapshot_id: str) -> snapshot_service_pb2.Snapshot:
        """Return a snapshot as it is."""
        name = f"environments/{environment}/snapshots/{snapshot_id}"
        return self.client.snapshots.GetSnapshot(snapshot_service_pb2.GetSnapshotRequest(name=name)).snapshot

    def delete_snapshot(self, environment: str, snapshot_id: str) -> None:
        """Delete a snapshot."""
        name = f"environments/{environment}/snapshots/{snapshot_id}"
        answer = self.client.snapshots.DeleteSnapshot(snapshot_service_pb2.DeleteSnapshotRequest(name=name))
        if answer.operation:
            waiting.wait(self.client, answer.operation)

    # --- files ---

    @property
    def archive_path(self) -> pathlib.Path:
        """The archive's folder."""
        return self.daemon.state_dir / "archive"

    def pool_files(self) -> list[pathlib.Path]:
        """Return the image files on primary storage; one that goes meanwhile may be among them."""
        return sorted((self.daemon.state_dir / "pool").glob("*/*.qcow2"))

    def wait_for_layers(self, count: int) -> None:
        """Return when primary storage has no more layers than that: the keeper has folded and removed the others."""
        _wait_until(lambda: len(self.pool_files()) <= count, f"more than {count} layers")

    def wait_for_collection(self, most_bytes: int) -> None:
        """Return when the archive has no more bytes than that: the keeper has removed what nothing refers to."""
        _wait_until(lambda: folder_bytes(self.archive_path) <= most_bytes, f"more than {most_bytes} bytes archived")

    def forget(self) -> None:
        """Have what is on primary storage and in the archive leave the page cache."""
        disks.forget(*self.pool_files(), self.archive_path)

    # --- what it took ---

    def timed(self, action: Callable[[], object]) -> timing.Sample:
        """Time a call, with the daemon's processor time and ours."""
        before = self._cpu_seconds()
        ours = timing.call(action)
        return timing.Sample(ours.seconds, ours.cpu_seconds + self._cpu_seconds() - before)

    def _cpu_seconds(self) -> float:
        fields = pathlib.Path(f"/proc/{self.daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def peak_bytes(self) -> int:
        """Return the most resident bytes that the daemon had since this was last asked."""
        place = pathlib.Path(f"/proc/{self.daemon.process.pid}")
        (line,) = (line for line in (place / "status").read_text().splitlines() if line.startswith("VmHWM:"))
        (place / "clear_refs").write_text("5")
        return int(line.split()[1]) * units.KIB


@contextmanager
def running_on(state_dir: pathlib.Path) -> Iterator[Rig]:
    """Give a daemon on a state directory, stopped at the end."""
    daemon = running.Daemon(state_dir)
    daemon.start()
    try:
        with connection.connect(str(daemon.socket)) as client:
            yield Rig(daemon, client)
        daemon.stop()
    finally:
        daemon.kill()


def folder_bytes(folder: pathlib.Path) -> int:
    """Return the bytes of all files in a folder and below; some may be removed meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def _wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    pause = threading.Event()
    end = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"after {_PATIENCE_S} s there still are {otherwise}"
        pause.wait(_LOOK_AGAIN_S)
