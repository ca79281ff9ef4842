"""Steps that change what things are called and what the daemon is at, and no contents."""

import grpc
from google.longrunning import operations_pb2
from google.protobuf import field_mask_pb2

from snapd.v1 import environment_service_pb2 as environments
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import system_service_pb2 as system
from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import script
from tests.integration import running

_TITLE = field_mask_pb2.FieldMask(paths=["display_name"])


def rename_environment(title: str) -> script.Step:
    """Give the environment a display name."""
    request = environments.UpdateEnvironmentRequest(
        environment=environments.Environment(name=script.PARENT, display_name=title),
        update_mask=_TITLE,
        request_id=script.new_request_id(),
    )
    return script.Step(
        "",
        lambda client: client.environments.UpdateEnvironment(request) and None,
        lambda expected: expected.titles.update({script.PARENT: title}),
    )


def rename_volume(volume_id: str, title: str) -> script.Step:
    """Give a volume a display name."""
    name = script.volume_name(volume_id)
    request = volumes.UpdateVolumeRequest(
        volume=volumes.Volume(name=name, display_name=title),
        update_mask=_TITLE,
        request_id=script.new_request_id(),
    )
    return script.Step(
        name,
        lambda client: client.volumes.UpdateVolume(request) and None,
        lambda expected: expected.titles.update({name: title}),
    )


def rename_snapshot(snapshot_id: str, title: str) -> script.Step:
    """Give a snapshot a display name."""
    name = script.snapshot_name(snapshot_id)
    request = snapshots.UpdateSnapshotRequest(
        snapshot=snapshots.Snapshot(name=name, display_name=title),
        update_mask=_TITLE,
        request_id=script.new_request_id(),
    )
    return script.Step(
        name,
        lambda client: client.snapshots.UpdateSnapshot(request) and None,
        lambda expected: expected.titles.update({name: title}),
    )


def delete_environment(parent: str) -> script.Step:
    """Delete an environment that has nothing in it."""
    request = environments.DeleteEnvironmentRequest(name=parent, request_id=script.new_request_id())
    return script.Step("", lambda client: client.environments.DeleteEnvironment(request) and None, lambda _: None)


def check(volume_id: str) -> script.Step:
    """Have a volume's files checked, and its head repaired."""
    request = volumes.CheckVolumeRequest(name=script.volume_name(volume_id), repair=True)

    def send(client: running.Client) -> None:
        for report in client.volumes.CheckVolume(request):
            assert report.verdict == volumes.CheckVolumeResponse.VERDICT_CLEAN, report

    return script.Step("", send, lambda _: None)


def pause() -> script.Step:
    """Hold all background work."""
    request = system.PauseWorkRequest(reason="a test", request_id=script.new_request_id())
    return script.Step("", lambda client: client.system.PauseWork(request) and None, lambda _: None)


def resume() -> script.Step:
    """Let the background work go on."""
    request = system.ResumeWorkRequest(request_id=script.new_request_id())
    return script.Step("", lambda client: client.system.ResumeWork(request) and None, lambda _: None)


def cancelled_archive(snapshot_id: str) -> script.Step:
    """Ask for a rapid snapshot to be archived now, and cancel that. The archiver is paused, so it waits until then."""
    name = script.snapshot_name(snapshot_id)
    request = snapshots.ArchiveSnapshotRequest(name=name, request_id=script.new_request_id())

    def send(client: running.Client) -> None:
        operation = client.snapshots.ArchiveSnapshot(request).operation
        client.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation))
        assert client.done(operation).error.code == grpc.StatusCode.CANCELLED.value[0]
        assert script.get_snapshot(client, snapshot_id).rapid

    return script.Step("", send, lambda _: None)
