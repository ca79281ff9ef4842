"""Two real daemons on one bucket: what one archived is seen and deployed on the other, and outlives its host."""

import base64
import pathlib
import random
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from snapd import units
from snapd.archive.backends import backend, directory, s3
from snapd.client import connection, upload, waiting
from snapd.client import errors as client_errors
from snapd.v1 import archive_service_pb2 as archives
from snapd.v1 import environment_service_pb2 as environments
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import system_service_pb2 as system
from snapd.v1 import volume_service_pb2 as volumes
from tests.integration import running
from tests.stores import servers

SIZE = 16 * units.MIB


class Host:
    """A daemon whose archive is in the shared bucket."""

    def __init__(self, folder: pathlib.Path, name: str, archive: str) -> None:
        self.name = name
        self.state = folder / name
        config = folder / f"{name}.toml"
        config.write_text(
            f'state_dir = "{self.state}"\nrun_dir = "{self.state}/run"\n[pool]\nlow_watermark = "1MiB"\n'
            f'[archive]\nhost = "{name.partition("-again")[0]}"\n{archive}'
        )
        self.daemon = running.Daemon(self.state, config)


def import_disk(client: connection.Client, folder: pathlib.Path, name: str, data: bytes) -> None:
    path = folder / f"{name}.raw"
    path.write_bytes(data)
    start = volumes.ImportVolumeRequest.Start(
        parent="environments/blue",
        volume_id=name,
        volume=volumes.Volume(role=volumes.Volume.ROLE_DATA),
        format=volumes.IMAGE_FORMAT_RAW,
    )
    upload.import_volume(client, path, start)


def archive_snapshot(client: connection.Client, volume: str, name: str) -> snapshots.Snapshot:
    request = snapshots.CreateSnapshotRequest(
        parent="environments/blue",
        snapshot_id=name,
        snapshot=snapshots.Snapshot(source_volume=f"environments/blue/volumes/{volume}"),
    )
    waiting.wait(client, client.snapshots.CreateSnapshot(request).operation)
    return client.snapshots.GetSnapshot(
        snapshots.GetSnapshotRequest(name=f"environments/blue/snapshots/{name}")
    ).snapshot


def exported(client: connection.Client, source: str) -> bytes:
    parts = []
    for piece in client.volumes.ExportVolume(volumes.ExportVolumeRequest(source=source)):
        if piece.WhichOneof("message") == "data":
            parts.append(piece.data.data)
        elif piece.WhichOneof("message") == "hole":
            parts.append(bytes(piece.hole.length))
    return b"".join(parts)


def archived_on(client: connection.Client, host: str) -> dict[str, archives.ArchivedSnapshot]:
    """Return what a host has archived, by the snapshots' ids, read in pages of one."""
    found: dict[str, archives.ArchivedSnapshot] = {}
    request = archives.ListArchivedSnapshotsRequest(parent=f"hosts/{host}", page_size=1)
    while True:
        page = client.archives.ListArchivedSnapshots(request)
        found |= {each.snapshot_id: each for each in page.archived_snapshots}
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def deploy(client: connection.Client, found: archives.ArchivedSnapshot, name: str) -> None:
    request = volumes.CreateVolumeRequest(
        parent="environments/blue",
        volume_id=name,
        volume=volumes.Volume(role=volumes.Volume.ROLE_DATA, source_archived_snapshot=found.name),
    )
    answer = client.volumes.CreateVolume(request)
    assert answer.volume.source_archived_snapshot == found.name
    waiting.wait(client, answer.operation)


def test_what_one_host_archived_is_deployed_on_another_and_outlives_it(
    folder: pathlib.Path, archive_config: str
) -> None:
    rng = random.Random(7)
    disks = {name: rng.randbytes(SIZE // 2) + bytes(SIZE // 2) for name in ("one", "two")}
    first, second = Host(folder, "host-1", archive_config), Host(folder, "host-2", archive_config)
    with ExitStack() as stack:
        clients = []
        for host in (first, second):
            host.daemon.start()
            stack.callback(host.daemon.kill)
            client = stack.enter_context(connection.connect(str(host.daemon.socket)))
            client.environments.CreateEnvironment(environments.CreateEnvironmentRequest(environment_id="blue"))
            clients.append(client)
        here, there = clients
        for name, data in disks.items():
            import_disk(here, folder, name, data)
            assert archive_snapshot(here, name, f"{name}-s").state == snapshots.Snapshot.STATE_COMPLETED
        import_disk(there, folder, "own", disks["one"])
        archive_snapshot(there, "own", "own-s")
        hosts = there.archives.ListArchiveHosts(archives.ListArchiveHostsRequest()).archive_hosts
        assert [(host.name, host.own) for host in hosts] == [("hosts/host-1", False), ("hosts/host-2", True)]
        found = archived_on(there, "host-1")
        assert set(found) == {"one-s", "two-s"}
        assert (found["one-s"].volume_id, found["one-s"].size_bytes) == ("one", SIZE)
        deploy(there, found["one-s"], "deployed")
        assert exported(there, "environments/blue/volumes/deployed") == disks["one"]

        missing = archives.ArchivedSnapshot(name=found["one-s"].name.rpartition("/")[0] + "/none")
        with pytest.raises(client_errors.ApiError) as refused:
            deploy(there, missing, "of-nothing")
        assert refused.value.reason == "RESOURCE_NOT_FOUND"

        # What the second deletes and collects is its own.
        deleted = there.snapshots.DeleteSnapshot(
            snapshots.DeleteSnapshotRequest(name="environments/blue/snapshots/own-s")
        )
        waiting.wait(there, deleted.operation)
        # And the first one is lost, with all that it had.
        first.daemon.kill()
        shutil.rmtree(first.state)
        assert set(archived_on(there, "host-1")) == {"one-s", "two-s"}
        for name, data in disks.items():
            deploy(there, found[f"{name}-s"], f"saved-{name}")
            assert exported(there, f"environments/blue/volumes/saved-{name}") == data
        assert second.daemon.stop() == 0


def test_an_encrypted_archive_holds_neither_contents_nor_names(
    folder: pathlib.Path, archive_config: str, tmp_path: pathlib.Path
) -> None:
    secret = b"the plaintext that nobody may find in the store "
    host = Host(folder, "host-1", archive_config)
    with ExitStack() as stack:
        host.daemon.start()
        stack.callback(host.daemon.kill)
        client = stack.enter_context(connection.connect(str(host.daemon.socket)))
        client.environments.CreateEnvironment(environments.CreateEnvironmentRequest(environment_id="blue"))
        # Among bytes that can't be compressed, so that nothing but encryption hides it.
        noise = random.Random(9).randbytes(units.MIB)
        import_disk(client, folder, "telling-name", noise + secret + noise[: -len(secret)])
        archive_snapshot(client, "telling-name", "telling-snapshot")
        assert host.daemon.stop() == 0
    held = b"".join(stored(archive_config, tmp_path))
    assert held
    for word in (secret.strip(), b"telling-name", b"telling-snapshot", b"blue"):
        assert word not in held
        assert base64.b64encode(word)[:-4] not in held


def stored(archive_config: str, tmp_path: pathlib.Path) -> Iterator[bytes]:
    """Yield the keys and the bytes of all objects of the archive."""
    store: backend.Backend = directory.DirectoryBackend(tmp_path / "archive")
    if 'store = "s3"' in archive_config:
        settings = tomllib.loads(f"[archive]\n{archive_config}")["archive"]["s3"]
        store = s3.S3Backend(servers.settings(settings["endpoint"], tmp_path / "spool", prefix=settings["prefix"]))
    for key, _ in store.list(""):
        yield key.encode()
        yield store.get(key)


def test_a_second_daemon_of_the_same_host_serves_its_volumes_and_archives_nothing(
    folder: pathlib.Path, archive_config: str
) -> None:
    first, second = Host(folder, "host-1", archive_config), Host(folder, "host-1-again", archive_config)
    data = random.Random(8).randbytes(SIZE)
    with ExitStack() as stack:
        for host in (first, second):
            host.daemon.start()
            stack.callback(host.daemon.kill)
        here = stack.enter_context(connection.connect(str(first.daemon.socket)))
        there = stack.enter_context(connection.connect(str(second.daemon.socket)))
        for client in (here, there):
            client.environments.CreateEnvironment(environments.CreateEnvironmentRequest(environment_id="blue"))
            import_disk(client, folder, "disk", data)
        assert archive_snapshot(here, "disk", "s").state == snapshots.Snapshot.STATE_COMPLETED
        with pytest.raises(client_errors.ApiError) as refused:
            archive_snapshot(there, "disk", "s")
        assert refused.value.reason == "ARCHIVE_CLAIMED"
        assert exported(there, "environments/blue/volumes/disk") == data
        capacity = there.system.GetCapacity(system.GetCapacityRequest())
        assert capacity.pool.used_bytes > 0
        assert not capacity.archive.reachable
        assert "host-1" in capacity.archive.error.message
        told = client_errors.from_status(there.system.GetServerInfo(system.GetServerInfoRequest()).archive_error)
        assert told.reason == "ARCHIVE_CLAIMED"
        usable = here.system.GetCapacity(system.GetCapacityRequest()).archive
        assert usable.reachable
        assert not usable.HasField("error")
        assert set(archived_on(here, "host-1")) == {"s"}
