"""The whole main job against the real daemon, and requests that make no sense."""

import pathlib
import subprocess
import uuid
from collections.abc import Callable

import grpc
import pytest
from google.protobuf import duration_pb2

from snapd import units
from snapd.v1 import environment_service_pb2 as environments
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import script
from tests.integration import running

SIZE = 16 * units.MIB


def _volume(client: running.Client, volume_id: str) -> volumes.Volume:
    return client.volumes.GetVolume(volumes.GetVolumeRequest(name=script.volume_name(volume_id))).volume


def _exported(client: running.Client, name: str) -> bytes:
    pieces = client.volumes.ExportVolume(volumes.ExportVolumeRequest(source=name))
    return b"".join(piece.data.data or bytes(piece.hole.length) for piece in pieces)


def test_a_disk_is_imported_snapshotted_rolled_back_archived_and_deployed(
    daemon: running.Daemon, client: running.Client, tmp_path: pathlib.Path
) -> None:
    # A disk that QEMU made, in its own format.
    data = script.noise(SIZE // 2) + bytes(SIZE // 2)
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(data)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-c", str(raw), str(image)], check=True)
    script.import_volume("root", image.read_bytes(), data, volumes.IMAGE_FORMAT_QCOW2).send(client)
    assert _volume(client, "root").size_bytes == SIZE
    assert _exported(client, script.volume_name("root")) == data

    # A snapshot that costs nothing, a change that goes wrong, and back.
    script.snapshot("before-upgrade", "root", rapid=True).send(client)
    script.write("root", 0, script.noise(units.MIB)).send(client)
    broken = _exported(client, script.volume_name("root"))
    assert broken != data
    script.snapshot("broken", "root", rapid=True).send(client)
    script.revert("root", "before-upgrade").send(client)
    assert _exported(client, script.volume_name("root")) == data

    # What was broken is looked at elsewhere, while the volume goes on.
    script.clone("lab", "broken").send(client)
    assert _exported(client, script.volume_name("lab")) == broken

    # A golden image outlives its volume and the daemon's restart, and many volumes are deployed from it.
    script.snapshot("golden", "root", rapid=False).send(client)
    script.delete_volume("root").send(client)
    assert daemon.stop() == 0
    daemon.start()
    with daemon.client() as again:
        golden = script.get_snapshot(again, "golden")
        assert golden.archive.state == snapshots.Snapshot.Archive.STATE_ARCHIVED
        for number in range(3):
            script.clone(f"web-{number}", "golden").send(again)
        script.write("web-0", 4096, script.noise(units.MIB)).send(again)
        assert _exported(again, script.volume_name("web-1")) == data
        assert _exported(again, script.snapshot_name("golden")) == data
        assert _volume(again, "web-2").source_snapshot == script.snapshot_name("golden")


def test_a_rapid_snapshot_whose_retention_is_over_becomes_a_regular_one_by_itself(client: running.Client) -> None:
    data = script.noise(SIZE)
    script.import_volume("v", data, data).send(client)
    created = client.snapshots.CreateSnapshot(
        snapshots.CreateSnapshotRequest(
            parent=script.PARENT,
            snapshot_id="s",
            snapshot=snapshots.Snapshot(
                source_volume=script.volume_name("v"), retention_duration=duration_pb2.Duration(seconds=1)
            ),
            rapid=True,
        )
    ).snapshot
    assert (created.state, created.rapid) == (snapshots.Snapshot.STATE_COMPLETED, True)
    script.until(lambda: not script.get_snapshot(client, "s").rapid)
    archived = script.get_snapshot(client, "s")
    assert archived.archive.state == snapshots.Snapshot.Archive.STATE_ARCHIVED
    assert archived.archive.archive_time.ToDatetime() > archived.archive.due_time.ToDatetime()
    assert _exported(client, script.snapshot_name("s")) == data


# --- requests that make no sense --------------------------------------------------------------------------------------


def _create_volume(
    parent: str = script.PARENT, volume_id: str = "v", size_bytes: int = SIZE
) -> volumes.CreateVolumeRequest:
    volume = volumes.Volume(size_bytes=size_bytes)
    return volumes.CreateVolumeRequest(parent=parent, volume_id=volume_id, volume=volume)


REFUSED: dict[str, tuple[volumes.CreateVolumeRequest, grpc.StatusCode, str]] = {
    "an unknown environment": (
        _create_volume(parent="environments/nowhere"),
        grpc.StatusCode.NOT_FOUND,
        "RESOURCE_NOT_FOUND",
    ),
    "no environment": (_create_volume(parent=""), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    "an id with capitals": (_create_volume(volume_id="Root"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    "an id that climbs": (_create_volume(volume_id="../../x"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    "an id that is too long": (_create_volume(volume_id="v" * 64), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    "size 0": (_create_volume(size_bytes=0), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    "a negative size": (_create_volume(size_bytes=-512), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    "half a sector": (_create_volume(size_bytes=SIZE + 256), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    "more than a disk can be": (
        _create_volume(size_bytes=(1 << 63) - 512),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_volume_is_not_made_of_nonsense(client: running.Client, what: str) -> None:
    request, code, reason = REFUSED[what]
    with pytest.raises(grpc.RpcError) as refused:
        client.volumes.CreateVolume(request)
    assert (refused.value.code(), running.reason(refused.value)) == (code, reason)
    assert not client.volumes.ListVolumes(volumes.ListVolumesRequest(parent="environments/-")).volumes


def _refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code(), running.reason(refused.value)


def test_an_image_that_is_cut_off_is_no_volume_yet_and_can_be_completed(client: running.Client) -> None:
    data = script.noise(SIZE)
    request_id = str(uuid.uuid4())
    whole = script.import_volume("v", data, data, request_id=request_id)
    cut = script.import_volume("v", data, data, request_id=request_id, cut_at=5 * units.MIB)
    assert _refusal(lambda: cut.send(client)) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE")
    assert _volume(client, "v").state == volumes.Volume.STATE_CREATING
    early = script.snapshot("s", "v", rapid=True)
    assert _refusal(lambda: early.send(client)) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
    whole.send(client)
    assert _exported(client, script.volume_name("v")) == data


def test_a_volume_is_not_reverted_to_another_ones_snapshot(client: running.Client) -> None:
    data = script.noise(units.MIB)
    for volume_id in ("v", "w"):
        script.import_volume(volume_id, data, data).send(client)
    script.snapshot("of-w", "w", rapid=True).send(client)
    revert = script.revert("v", "of-w")
    refusal = _refusal(lambda: revert.send(client))
    assert refusal == (grpc.StatusCode.INVALID_ARGUMENT, "SNAPSHOT_OF_ANOTHER_VOLUME")


def test_an_environment_that_holds_something_is_not_deleted(client: running.Client) -> None:
    data = script.noise(units.MIB)
    script.import_volume("v", data, data).send(client)
    request = environments.DeleteEnvironmentRequest(name=script.PARENT)
    refusal = _refusal(lambda: client.environments.DeleteEnvironment(request))
    assert refusal == (grpc.StatusCode.FAILED_PRECONDITION, "ENVIRONMENT_NOT_EMPTY")
    script.delete_volume("v").send(client)
    client.environments.DeleteEnvironment(request)
