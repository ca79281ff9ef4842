"""What keeps the archiver from hurting the host, on the real daemon."""

import pathlib

import grpc
from google.longrunning import operations_pb2

from snapd.v1 import environment_service_pb2 as environments
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import system_service_pb2 as system
from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import script
from tests.integration import running


def _prepare(client: running.Client) -> None:
    data = script.noise(script.SIZE)
    script.import_volume("v", data, data, volumes.IMAGE_FORMAT_RAW).send(client)


def _take(client: running.Client, snapshot_id: str) -> snapshots.CreateSnapshotResponse:
    return client.snapshots.CreateSnapshot(
        snapshots.CreateSnapshotRequest(
            parent=script.PARENT,
            snapshot_id=snapshot_id,
            snapshot=snapshots.Snapshot(source_volume=script.volume_name("v")),
        )
    )


def test_a_paused_archiver_accepts_work_and_does_it_when_it_is_resumed(
    daemon: running.Daemon, client: running.Client
) -> None:
    _prepare(client)
    paused = client.system.PauseWork(
        system.PauseWorkRequest(workers=[system.WORKER_ARCHIVER], reason="the store is moved")
    )
    assert [(state.paused, state.reason) for state in paused.work] == [(True, "the store is moved"), (False, "")]
    taken = _take(client, "s")
    assert taken.snapshot.state == snapshots.Snapshot.STATE_IN_PROGRESS
    assert daemon.stop() == 0
    daemon.start()
    with daemon.client() as again:
        waiting = script.get_snapshot(again, "s").archive
        assert (waiting.state, waiting.paused) == (snapshots.Snapshot.Archive.STATE_SCHEDULED, True)
        told = again.system.GetServerInfo(system.GetServerInfoRequest()).work[0]
        assert (told.paused_by, told.waiting_count, told.running_count) == ("local", 1, 0)
        again.system.ResumeWork(system.ResumeWorkRequest())
        assert not again.done(taken.operation).HasField("error")
        completed = script.get_snapshot(again, "s")
        assert completed.state == snapshots.Snapshot.STATE_COMPLETED
        # Noise is new and doesn't compress.
        assert completed.archive.changed_bytes == completed.archive.new_bytes == script.SIZE
        assert completed.archive.stored_bytes > script.SIZE
        request = environments.GetEnvironmentUsageRequest(name=script.PARENT)
        usage = again.environments.GetEnvironmentUsage(request).usage
        assert (usage.volume_count, usage.snapshot_count, usage.archived_snapshot_count) == (1, 1, 1)
        assert usage.provisioned_bytes == usage.archive.logical_bytes == script.SIZE
        assert usage.archive.stored_bytes > usage.archive.changed_bytes == script.SIZE
        assert usage.primary.exclusive_bytes >= script.SIZE


def test_a_run_that_is_slowed_down_is_cancelled_at_once(short_path: pathlib.Path) -> None:
    config = short_path / "config.toml"
    state_dir = short_path / "state"
    config.write_text(f'state_dir = "{state_dir}"\nrun_dir = "{state_dir}/run"\n[archiver]\nbandwidth = "64KiB/s"\n')
    daemon = running.Daemon(state_dir, config)
    try:
        daemon.start()
        with daemon.client() as client:
            script.environment().send(client)
            _prepare(client)
            taken = _take(client, "s")
            script.until(lambda: script.get_snapshot(client, "s").archive.bytes_done > 0)
            # At this rate it takes half a minute; nothing here waits for that.
            client.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=taken.operation))
            ended = client.done(taken.operation)
            assert ended.error.code == grpc.StatusCode.CANCELLED.value[0]
            volume = volumes.GetVolumeRequest(name=script.volume_name("v"))
            assert client.volumes.GetVolume(volume).volume.state == volumes.Volume.STATE_READY
        assert daemon.stop() == 0
    finally:
        daemon.kill()
