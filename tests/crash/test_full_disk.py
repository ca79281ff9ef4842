"""A file system that runs full under the daemon. It takes root, since a small one is mounted."""

import os
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator

import grpc
import pytest

from snapd import units
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import script
from tests.integration import running

ROOM = 96 * units.MIB


@pytest.fixture
def daemon() -> Iterator[running.Daemon]:
    """Run a daemon whose state lies on a small file system of its own."""
    if os.geteuid() != 0:
        pytest.fail("this test mounts a file system: run it as root")
    with tempfile.TemporaryDirectory(prefix="snapd-") as folder:
        state, config = pathlib.Path(folder, "state"), pathlib.Path(folder, "config.toml")
        state.mkdir()
        config.write_text(f'state_dir = "{state}"\nrun_dir = "{state}/run"\npool.low_watermark = "16MiB"\n')
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0700", "none", str(state)], check=True)
        daemon = running.Daemon(state, config)
        try:
            daemon.start()
            with daemon.client() as client:
                script.environment().send(client)
            yield daemon
        finally:
            daemon.kill()
            subprocess.run(["umount", str(state)], check=True)


def _refused(client: running.Client, step: script.Step) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        step.send(client)
    return refused.value.code(), running.reason(refused.value)


def _exported(client: running.Client, name: str) -> bytes:
    pieces = client.volumes.ExportVolume(volumes.ExportVolumeRequest(source=name))
    return b"".join(piece.data.data or bytes(piece.hole.length) for piece in pieces)


def test_a_disk_that_runs_full_during_an_upload_keeps_what_was_there_and_recovers(daemon: running.Daemon) -> None:
    data = script.noise(8 * units.MIB)
    with daemon.client() as client:
        script.import_volume("kept", data, data).send(client)
        script.snapshot("rapid", "kept", rapid=True).send(client)
        large = script.noise(ROOM)
        code, reason = _refused(client, script.import_volume("large", large, large))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "POOL_FULL")
        filler = daemon.state_dir / "filler"
        filler.write_bytes(bytes(2 * units.MIB))
        full = _refused(client, script.snapshot("late", "kept", rapid=True))
        assert full == (grpc.StatusCode.RESOURCE_EXHAUSTED, "POOL_FULL")
        assert _exported(client, script.volume_name("kept")) == data
        script.delete_volume("large").send(client)
        filler.unlink()
        assert _refused(client, script.import_volume("large", large, large))[1] == "POOL_FULL"
        script.delete_volume("large").send(client)
        script.snapshot("late", "kept", rapid=True).send(client)
        script.write("kept", 0, data[: units.MIB][::-1]).send(client)
        assert _exported(client, script.snapshot_name("late")) == data
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        assert _exported(client, script.snapshot_name("rapid")) == data
        assert _exported(client, script.volume_name("kept")) == data[: units.MIB][::-1] + data[units.MIB :]


def test_a_disk_that_runs_full_during_a_write_keeps_what_was_acknowledged(daemon: running.Daemon) -> None:
    size = 2 * ROOM
    with daemon.client() as client:
        create = volumes.CreateVolumeRequest(
            parent=script.PARENT, volume_id="v", volume=volumes.Volume(size_bytes=size)
        )
        client.volumes.CreateVolume(create)
        acknowledged: list[bytes] = []

        def fill() -> None:
            for offset in range(0, size, units.MIB):
                data = script.noise(units.MIB)
                script.write("v", offset, data).send(client)
                acknowledged.append(data)

        with pytest.raises(grpc.RpcError) as refused:
            fill()
        assert running.reason(refused.value) == "POOL_FULL"
        assert acknowledged
        held = _exported(client, script.volume_name("v"))
        assert held[: len(acknowledged) * units.MIB] == b"".join(acknowledged)
        script.delete_volume("v").send(client)
        client.volumes.CreateVolume(create)
        script.write("v", 0, acknowledged[0]).send(client)
    assert daemon.stop() == 0


def test_an_archive_that_runs_full_is_tried_again_once_there_is_room(daemon: running.Daemon) -> None:
    data = script.noise(30 * units.MIB)
    filler = daemon.state_dir / "filler"
    with daemon.client() as client:
        script.import_volume("v", data, data).send(client)
        create = script.snapshot("s", "v", rapid=True)
        create.send(client)
        filler.write_bytes(bytes(ROOM - 50 * units.MIB))
        request = snapshots.ArchiveSnapshotRequest(name=script.snapshot_name("s"))
        operation = client.snapshots.ArchiveSnapshot(request).operation
        script.until(lambda: script.get_snapshot(client, "s").archive.HasField("error"))
        waiting = script.get_snapshot(client, "s")
        assert (waiting.state, waiting.rapid) == (snapshots.Snapshot.STATE_COMPLETED, True)
        assert waiting.archive.state == snapshots.Snapshot.Archive.STATE_SCHEDULED
        assert _exported(client, script.snapshot_name("s")) == data
        filler.unlink()
        client.snapshots.ArchiveSnapshot(snapshots.ArchiveSnapshotRequest(name=script.snapshot_name("s")))
        assert not client.done(operation).HasField("error")
        assert _exported(client, script.snapshot_name("s")) == data
