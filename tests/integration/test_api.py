"""The API as callers meet it: errors, retries, pages, waiting."""

import uuid

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2, field_mask_pb2
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from snapd.rpc import server
from snapd.v1 import environment_service_pb2, operation_pb2, snapshot_service_pb2, system_service_pb2
from snapd.v1 import volume_service_pb2 as volumes
from tests.integration import running

MIB = 1 << 20


def _create(volume_id: str, request_id: str = "", size_bytes: int = MIB) -> volumes.CreateVolumeRequest:
    return volumes.CreateVolumeRequest(
        parent="environments/a",
        volume_id=volume_id,
        volume=volumes.Volume(size_bytes=size_bytes),
        request_id=request_id,
    )


def _volume(client: running.Client, volume_id: str) -> volumes.Volume:
    created = client.volumes.CreateVolume(_create(volume_id))
    client.done(created.operation)
    return client.volumes.GetVolume(volumes.GetVolumeRequest(name=created.volume.name)).volume


def test_an_environment_is_made_changed_listed_and_deleted(client: running.Client) -> None:
    name = "environments/b"
    made = client.environments.CreateEnvironment(
        environment_service_pb2.CreateEnvironmentRequest(
            environment_id="b",
            environment=environment_service_pb2.Environment(
                labels={"team": "blue"}, retention_duration=duration_pb2.Duration(seconds=90)
            ),
        )
    ).environment
    assert (made.name, made.display_name, made.labels["team"]) == (name, "b", "blue")
    changed = client.environments.UpdateEnvironment(
        environment_service_pb2.UpdateEnvironmentRequest(
            environment=environment_service_pb2.Environment(name=name, display_name="Blue", etag=made.etag),
            update_mask=field_mask_pb2.FieldMask(paths=["display_name", "retention_duration"]),
        )
    ).environment
    assert (changed.uid, changed.display_name, changed.labels["team"]) == (made.uid, "Blue", "blue")
    assert not changed.HasField("retention_duration")
    assert changed.etag != made.etag
    listed = client.environments.ListEnvironments(environment_service_pb2.ListEnvironmentsRequest()).environments
    assert [environment.name for environment in listed] == ["environments/a", name]
    client.environments.DeleteEnvironment(environment_service_pb2.DeleteEnvironmentRequest(name=name))
    with pytest.raises(grpc.RpcError) as refused:
        client.environments.GetEnvironment(environment_service_pb2.GetEnvironmentRequest(name=name))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    client.environments.DeleteEnvironment(
        environment_service_pb2.DeleteEnvironmentRequest(name=name, allow_missing=True)
    )


def test_an_error_says_what_why_and_about_what(client: running.Client) -> None:
    name = "environments/a/volumes/none"
    with pytest.raises(grpc.RpcError) as refused:
        client.volumes.GetVolume(volumes.GetVolumeRequest(name=name))
    status = rpc_status.from_call(refused.value)
    assert (refused.value.code(), status.message) == (grpc.StatusCode.NOT_FOUND, f"volume {name} does not exist")
    info, resource = error_details_pb2.ErrorInfo(), error_details_pb2.ResourceInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(resource)
    assert (info.domain, info.reason) == ("snapd-storage", "RESOURCE_NOT_FOUND")
    assert dict(info.metadata) == {"resource_type": "volume", "name": name}
    assert resource.resource_name == name


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("parent", volumes.CreateVolumeRequest(parent="environments/A", volume=volumes.Volume(size_bytes=512))),
        ("volume.size_bytes", volumes.CreateVolumeRequest(parent="environments/a")),
        (
            "volume.source_snapshot",
            volumes.CreateVolumeRequest(
                parent="environments/a", volume=volumes.Volume(source_snapshot="environments/b/snapshots/s")
            ),
        ),
    ],
    ids=["name", "size", "other environment"],
)
def test_a_bad_field_is_named(client: running.Client, field: str, request_: volumes.CreateVolumeRequest) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.volumes.CreateVolume(request_)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert running.info(refused.value).metadata["field"] == field


def test_a_retried_request_returns_what_the_first_made(client: running.Client) -> None:
    request = _create("", str(uuid.uuid4()))
    first = client.volumes.CreateVolume(request)
    again = client.volumes.CreateVolume(request)
    assert (again.volume.uid, again.operation) == (first.volume.uid, first.operation)
    assert len(client.volumes.ListVolumes(volumes.ListVolumesRequest(parent="environments/a")).volumes) == 1


def test_a_request_id_is_good_for_one_request_only(client: running.Client) -> None:
    request_id = str(uuid.uuid4())
    client.volumes.CreateVolume(_create("v1", request_id))
    with pytest.raises(grpc.RpcError) as refused:
        client.volumes.CreateVolume(_create("v1", request_id, 2 * MIB))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert running.reason(refused.value) == "REQUEST_ID_REUSED"


def test_a_refused_request_is_not_kept(client: running.Client) -> None:
    taken, request = _volume(client, "v1"), _create("v1", str(uuid.uuid4()))
    with pytest.raises(grpc.RpcError) as refused:
        client.volumes.CreateVolume(request)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    deleted = client.volumes.DeleteVolume(volumes.DeleteVolumeRequest(name=taken.name))
    client.done(deleted.operation)
    assert client.volumes.CreateVolume(request).volume.uid != taken.uid


def test_a_stale_etag_is_refused(client: running.Client) -> None:
    volume = _volume(client, "v1")
    changed = volumes.Volume(name=volume.name, instance="i-1", etag=volume.etag)
    client.volumes.UpdateVolume(volumes.UpdateVolumeRequest(volume=changed))
    with pytest.raises(grpc.RpcError) as refused:
        client.volumes.DeleteVolume(volumes.DeleteVolumeRequest(name=volume.name, etag=volume.etag))
    assert (refused.value.code(), running.reason(refused.value)) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")


def test_pages_hold_everything_once_in_order(client: running.Client) -> None:
    wanted = [f"environments/a/volumes/v{number}" for number in range(7)]
    for name in reversed(wanted):
        client.volumes.CreateVolume(_create(name.rpartition("/")[2]))
    found: list[str] = []
    sizes: list[int] = []
    token = ""
    while token or not sizes:
        request = volumes.ListVolumesRequest(parent="environments/a", page_size=3, page_token=token)
        page = client.volumes.ListVolumes(request)
        found += [volume.name for volume in page.volumes]
        sizes.append(len(page.volumes))
        token = page.next_page_token
    assert (found, sizes) == (wanted, [3, 3, 1])


def test_a_page_token_belongs_to_its_listing(client: running.Client) -> None:
    for volume_id in ("v1", "v2"):
        client.volumes.CreateVolume(_create(volume_id))
    request = volumes.ListVolumesRequest(parent="environments/a", page_size=1)
    request.page_token = client.volumes.ListVolumes(request).next_page_token
    request.filter = "state = READY"
    with pytest.raises(grpc.RpcError) as refused:
        client.volumes.ListVolumes(request)
    assert running.reason(refused.value) == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize(
    ("filter_", "found"),
    [
        ('labels.team = "blue"', ["v1"]),
        ("labels.team:*", ["v1", "v2"]),
        ('state = READY AND labels.team != "blue"', ["v2", "v3"]),
        ("instance = i-1", ["v3"]),
        ('create_time > "2100-01-01T00:00:00Z"', []),
    ],
)
def test_a_listing_is_filtered(client: running.Client, filter_: str, found: list[str]) -> None:
    for volume_id, changes in (("v1", {"team": "blue"}), ("v2", {"team": "red"}), ("v3", {})):
        request = _create(volume_id)
        request.volume.labels.update(changes)
        request.volume.instance = "" if changes else "i-1"
        client.done(client.volumes.CreateVolume(request).operation)
    listed = client.volumes.ListVolumes(volumes.ListVolumesRequest(parent="environments/-", filter=filter_)).volumes
    assert [volume.name.rpartition("/")[2] for volume in listed] == found


def test_snapshots_are_filtered_by_the_id_of_their_volume(client: running.Client) -> None:
    for volume_id in ("v1", "v2"):
        volume = _volume(client, volume_id)
        client.snapshots.CreateSnapshot(
            snapshot_service_pb2.CreateSnapshotRequest(
                parent="environments/a",
                snapshot_id=f"of-{volume_id}",
                snapshot=snapshot_service_pb2.Snapshot(source_volume=volume.name),
                rapid=True,
            )
        )
    request = snapshot_service_pb2.ListSnapshotsRequest(parent="environments/a", filter="volume = v2 AND rapid = true")
    listed = client.snapshots.ListSnapshots(request).snapshots
    assert [snapshot.name for snapshot in listed] == ["environments/a/snapshots/of-v2"]


def test_an_unknown_filter_field_is_refused(client: running.Client) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.volumes.ListVolumes(volumes.ListVolumesRequest(parent="environments/a", filter="colour = blue"))
    assert running.reason(refused.value) == "INVALID_FILTER"


def test_a_finished_operation_carries_what_it_made(client: running.Client) -> None:
    created = client.volumes.CreateVolume(_create("v1"))
    operation = client.done(created.operation)
    metadata, volume = operation_pb2.OperationMetadata(), volumes.Volume()
    assert operation.metadata.Unpack(metadata)
    assert operation.response.Unpack(volume)
    assert (metadata.method, metadata.target) == ("snapd.v1.VolumeService/CreateVolume", created.volume.name)
    assert metadata.end_time.ToDatetime() >= metadata.create_time.ToDatetime()
    assert (volume.uid, volume.state) == (created.volume.uid, volumes.Volume.STATE_READY)


def test_an_operation_of_a_regular_snapshot_ends_when_it_is_archived(client: running.Client) -> None:
    volume = _volume(client, "v1")
    created = client.snapshots.CreateSnapshot(
        snapshot_service_pb2.CreateSnapshotRequest(
            parent="environments/a", snapshot=snapshot_service_pb2.Snapshot(source_volume=volume.name)
        )
    )
    snapshot = snapshot_service_pb2.Snapshot()
    assert client.done(created.operation).response.Unpack(snapshot)
    assert snapshot.state == snapshot_service_pb2.Snapshot.STATE_COMPLETED
    assert snapshot.archive.state == snapshot_service_pb2.Snapshot.Archive.STATE_ARCHIVED
    assert not snapshot.rapid
    listed = client.operations.ListOperations(operations_pb2.ListOperationsRequest(name="environments/a")).operations
    assert created.operation in [operation.name for operation in listed]


def test_what_is_deleted_is_gone_and_its_operation_says_so(client: running.Client) -> None:
    volume = _volume(client, "v1")
    deleted = client.volumes.DeleteVolume(volumes.DeleteVolumeRequest(name=volume.name))
    operation = client.done(deleted.operation)
    assert operation.response.type_url == "type.googleapis.com/google.protobuf.Empty"
    with pytest.raises(grpc.RpcError) as refused:
        client.volumes.GetVolume(volumes.GetVolumeRequest(name=volume.name))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert (
        client.volumes.DeleteVolume(volumes.DeleteVolumeRequest(name=volume.name, allow_missing=True))
        == volumes.DeleteVolumeResponse()
    )


def test_the_daemon_tells_what_it_is_and_what_room_there_is(client: running.Client) -> None:
    info = client.system.GetServerInfo(system_service_pb2.GetServerInfoRequest())
    assert info.version
    assert (info.limits.page_size, info.limits.chunk_size_bytes, info.limits.chain_depth) == (1000, MIB, 32)
    capacity = client.system.GetCapacity(system_service_pb2.GetCapacityRequest())
    assert capacity.pool.total_bytes > capacity.pool.free_bytes > 0
    assert capacity.archive.reachable


def test_every_service_can_be_found_by_reflection(client: running.Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    found = {service.name for service in answer.list_services_response.service}
    assert found == {*server.SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
