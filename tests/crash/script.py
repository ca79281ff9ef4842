"""Steps of a client that can each be sent again, whatever became of the answer."""

import dataclasses
import random
import threading
import uuid
from collections.abc import Callable, Iterator

import google_crc32c
import grpc
from google.rpc import error_details_pb2, status_pb2

from snapd import clock, units
from snapd.v1 import archive_service_pb2, environment_service_pb2, system_service_pb2, transfer_pb2
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import volume_service_pb2 as volumes
from tests.integration import running

PARENT = "environments/a"
SIZE = 2 * units.MIB
CLUSTER = 64 * units.KIB

_LOOK_AGAIN_S = 0.02
_SOURCE = random.Random(20260301)
_UIDS = random.Random(5)
_never = threading.Event()


def noise(length: int) -> bytes:
    """Return bytes that don't compress, the same in every run."""
    return _SOURCE.randbytes(length)


def volume_name(volume_id: str, parent: str = PARENT) -> str:
    """Return a volume's resource name."""
    return f"{parent}/volumes/{volume_id}"


def snapshot_name(snapshot_id: str, parent: str = PARENT) -> str:
    """Return a snapshot's resource name."""
    return f"{parent}/snapshots/{snapshot_id}"


class Failed(AssertionError):
    """An operation ended with an error."""

    def __init__(self, error: status_pb2.Status) -> None:
        super().__init__(error.message)
        info = error_details_pb2.ErrorInfo()
        found = any(detail.Unpack(info) for detail in error.details if detail.Is(info.DESCRIPTOR))
        self.reason = info.reason if found else ""


@dataclasses.dataclass
class Expected:
    """What was acknowledged: contents by resource name."""

    contents: dict[str, bytes] = dataclasses.field(default_factory=dict)
    titles: dict[str, str] = dataclasses.field(default_factory=dict)
    """Display names that were given, by resource name."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that a client does, and goes on doing until it has the answer."""

    target: str
    """Resource name of what may be there or not, or may be changing, until there is an answer."""
    send: Callable[[running.Client], None]
    acknowledge: Callable[[Expected], None]


def new_request_id() -> str:
    return str(uuid.UUID(int=_UIDS.getrandbits(128), version=4))


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no operation."""
    deadline_s = clock.monotonic_s() + running.PATIENCE_S
    while not condition():
        assert clock.monotonic_s() < deadline_s, "what was waited for did not come"
        _never.wait(_LOOK_AGAIN_S)


def succeed(client: running.Client, operation: str) -> None:
    """Wait for the good end of an operation, if there is one. Raises Failed."""
    if operation:
        ended = client.done(operation)
        if ended.HasField("error"):
            raise Failed(ended.error)


def get_snapshot(client: running.Client, snapshot_id: str, parent: str = PARENT) -> snapshots.Snapshot:
    """Return a snapshot."""
    return client.snapshots.GetSnapshot(snapshots.GetSnapshotRequest(name=snapshot_name(snapshot_id, parent))).snapshot


# --- steps ------------------------------------------------------------------------------------------------------------


def environment(parent: str = PARENT) -> Step:
    """Make the environment."""
    environment_id = parent.partition("/")[2]
    request = environment_service_pb2.CreateEnvironmentRequest(
        environment_id=environment_id, request_id=new_request_id()
    )
    return Step(parent, lambda client: client.environments.CreateEnvironment(request) and None, lambda _: None)


def import_volume(
    volume_id: str,
    image: bytes,
    data: bytes,
    image_format: volumes.ImageFormat.ValueType = volumes.IMAGE_FORMAT_RAW,
    *,
    request_id: str = "",
    cut_at: int | None = None,
    parent: str = PARENT,
) -> Step:
    """Upload an image that holds `data`, or less of it. After a cut it is sent again from the start."""
    name, request_id = volume_name(volume_id, parent), request_id or new_request_id()

    def messages() -> Iterator[volumes.ImportVolumeRequest]:
        start = volumes.ImportVolumeRequest.Start(
            parent=parent, volume_id=volume_id, format=image_format, size_bytes=len(image), request_id=request_id
        )
        yield volumes.ImportVolumeRequest(start=start)
        for offset in range(0, len(image) if cut_at is None else cut_at, units.MIB):
            yield volumes.ImportVolumeRequest(data=_chunk(offset, image[offset : offset + units.MIB]))

    def send(client: running.Client) -> None:
        try:
            for _ in client.volumes.ImportVolume(messages()):
                pass
        except grpc.RpcError as error:
            # All of it had arrived, and only the answer was lost.
            if running.reason(error) != "WRONG_STATE":
                raise
        get = volumes.GetVolumeRequest(name=name)
        until(lambda: client.volumes.GetVolume(get).volume.state != volumes.Volume.STATE_CREATING)

    return Step(name, send, lambda expected: expected.contents.update({name: data}))


def _chunk(offset: int, data: bytes) -> transfer_pb2.DataChunk:
    return transfer_pb2.DataChunk(offset=offset, data=data, crc32c=google_crc32c.value(data))


def write(volume_id: str, offset: int, data: bytes, parent: str = PARENT) -> Step:
    """Write into a volume."""
    name = volume_name(volume_id, parent)

    def messages() -> Iterator[volumes.WriteBlocksRequest]:
        yield volumes.WriteBlocksRequest(start=volumes.WriteBlocksRequest.Start(name=name))
        yield volumes.WriteBlocksRequest(data=_chunk(offset, data))

    def send(client: running.Client) -> None:
        for _ in client.volumes.WriteBlocks(messages()):
            pass

    def acknowledge(expected: Expected) -> None:
        before = expected.contents[name]
        expected.contents[name] = before[:offset] + data + before[offset + len(data) :]

    return Step(name, send, acknowledge)


def snapshot(
    snapshot_id: str, volume_id: str, *, rapid: bool, retention_s: int | None = None, parent: str = PARENT
) -> Step:
    """Take a snapshot, and wait until it is complete."""
    name = snapshot_name(snapshot_id, parent)
    request = snapshots.CreateSnapshotRequest(
        parent=parent,
        snapshot_id=snapshot_id,
        snapshot=snapshots.Snapshot(source_volume=volume_name(volume_id, parent)),
        rapid=rapid,
        request_id=new_request_id(),
    )
    if retention_s is not None:
        request.snapshot.retention_duration.seconds = retention_s

    def send(client: running.Client) -> None:
        succeed(client, client.snapshots.CreateSnapshot(request).operation)
        assert get_snapshot(client, snapshot_id, parent).state == snapshots.Snapshot.STATE_COMPLETED

    def acknowledge(expected: Expected) -> None:
        expected.contents[name] = expected.contents[volume_name(volume_id, parent)]

    return Step(name, send, acknowledge)


def archive(snapshot_id: str, parent: str = PARENT) -> Step:
    """Archive a rapid snapshot now."""
    name = snapshot_name(snapshot_id, parent)
    request = snapshots.ArchiveSnapshotRequest(name=name, request_id=new_request_id())

    def send(client: running.Client) -> None:
        succeed(client, client.snapshots.ArchiveSnapshot(request).operation)
        assert not get_snapshot(client, snapshot_id, parent).rapid

    return Step("", send, lambda _: None)


def verify(snapshot_id: str, parent: str = PARENT) -> Step:
    """Have an archived snapshot checked."""
    request = snapshots.VerifySnapshotRequest(name=snapshot_name(snapshot_id, parent), request_id=new_request_id())
    return Step("", lambda client: succeed(client, client.snapshots.VerifySnapshot(request).operation), lambda _: None)


def scrub(parent: str = PARENT) -> Step:
    """Have all that is archived checked."""
    request = system_service_pb2.ScrubRequest(parent=parent, request_id=new_request_id())

    def send(client: running.Client) -> None:
        for operation in client.system.Scrub(request).operations:
            succeed(client, operation)

    return Step("", send, lambda _: None)


def collect(parent: str = PARENT) -> Step:
    """Have the archive's garbage collected."""
    request = system_service_pb2.CollectRequest(parent=parent, request_id=new_request_id())

    def send(client: running.Client) -> None:
        for operation in client.system.Collect(request).operations:
            succeed(client, operation)

    return Step("", send, lambda _: None)


def clone(volume_id: str, snapshot_id: str, parent: str = PARENT) -> Step:
    """Make a volume from a snapshot."""
    name = volume_name(volume_id, parent)
    request = volumes.CreateVolumeRequest(
        parent=parent,
        volume_id=volume_id,
        volume=volumes.Volume(source_snapshot=snapshot_name(snapshot_id, parent)),
        request_id=new_request_id(),
    )

    def acknowledge(expected: Expected) -> None:
        expected.contents[name] = expected.contents[snapshot_name(snapshot_id, parent)]

    return Step(name, lambda client: succeed(client, client.volumes.CreateVolume(request).operation), acknowledge)


def fetch(volume_id: str, snapshot_id: str) -> Step:
    """Make a volume from what the archive has of a snapshot, without asking for the snapshot itself."""
    name, request_id = volume_name(volume_id), new_request_id()

    def send(client: running.Client) -> None:
        listing = archive_service_pb2.ListArchivedSnapshotsRequest(parent="hosts/local")
        archived = client.archives.ListArchivedSnapshots(listing).archived_snapshots
        (place,) = (found.name for found in archived if found.snapshot_id == snapshot_id)
        request = volumes.CreateVolumeRequest(
            parent=PARENT,
            volume_id=volume_id,
            volume=volumes.Volume(source_archived_snapshot=place),
            request_id=request_id,
        )
        succeed(client, client.volumes.CreateVolume(request).operation)

    def acknowledge(expected: Expected) -> None:
        expected.contents[name] = expected.contents[snapshot_name(snapshot_id)]

    return Step(name, send, acknowledge)


def revert(volume_id: str, snapshot_id: str, parent: str = PARENT) -> Step:
    """Put a volume back to a snapshot."""
    name, source = volume_name(volume_id, parent), snapshot_name(snapshot_id, parent)
    request = volumes.RevertVolumeRequest(name=name, snapshot=source, request_id=new_request_id())

    def acknowledge(expected: Expected) -> None:
        expected.contents[name] = expected.contents[source]

    return Step(name, lambda client: succeed(client, client.volumes.RevertVolume(request).operation), acknowledge)


def delete_volume(volume_id: str, parent: str = PARENT) -> Step:
    """Delete a volume."""
    name = volume_name(volume_id, parent)
    request = volumes.DeleteVolumeRequest(name=name, request_id=new_request_id())

    def acknowledge(expected: Expected) -> None:
        del expected.contents[name]
        expected.titles.pop(name, None)

    return Step(name, lambda client: succeed(client, client.volumes.DeleteVolume(request).operation), acknowledge)


def delete_snapshot(snapshot_id: str, parent: str = PARENT) -> Step:
    """Delete a snapshot."""
    name = snapshot_name(snapshot_id, parent)
    request = snapshots.DeleteSnapshotRequest(name=name, request_id=new_request_id())

    def acknowledge(expected: Expected) -> None:
        del expected.contents[name]
        expected.titles.pop(name, None)

    return Step(name, lambda client: succeed(client, client.snapshots.DeleteSnapshot(request).operation), acknowledge)


def collected() -> Step:
    """Wait until the archive holds nothing any more but the environment's record."""

    def send(client: running.Client) -> None:
        request = system_service_pb2.GetCapacityRequest()
        until(lambda: client.system.GetCapacity(request).archive.stored_bytes < units.KIB)

    return Step("", send, lambda _: None)
