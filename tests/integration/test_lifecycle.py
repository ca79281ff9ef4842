"""The daemon as a process: starting, stopping in order, and not stepping on another one's toes."""

import contextlib
import pathlib
import socket
import stat
import threading
from collections.abc import Callable, Iterator

import google_crc32c
import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2

from snapd import lockfile
from snapd.v1 import environment_service_pb2, transfer_pb2
from snapd.v1 import volume_service_pb2 as volumes
from tests.integration import running

MIB = 1 << 20


class Upload:
    """An upload that stays open as long as the test wants."""

    def __init__(self, client: running.Client, volume_id: str = "v1") -> None:
        self._over = threading.Event()
        self._volume_id = volume_id
        self.answers = client.volumes.ImportVolume(self._messages())
        self.volume = next(self.answers).volume

    def _messages(self) -> Iterator[volumes.ImportVolumeRequest]:
        start = volumes.ImportVolumeRequest.Start(
            parent="environments/a", volume_id=self._volume_id, format=volumes.IMAGE_FORMAT_RAW, size_bytes=MIB
        )
        yield volumes.ImportVolumeRequest(start=start)
        self._over.wait(running.PATIENCE_S)
        yield volumes.ImportVolumeRequest(hole=transfer_pb2.Hole(length=MIB))

    def end(self) -> None:
        """Break the stream off."""
        self.answers.cancel()
        self._over.set()

    def complete(self) -> None:
        """Send the rest."""
        self._over.set()
        list(self.answers)


def _refused(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value


def _config(folder: pathlib.Path, name: str, text: str = "") -> running.Daemon:
    """Return a daemon with a state directory of its own whose socket is the one of `shared`."""
    state = folder / name
    path = folder / f"{name}.toml"
    path.write_text(f'state_dir = "{state}"\nrun_dir = "{folder}/shared/run"\n{text}')
    daemon = running.Daemon(state, path)
    daemon.socket = folder / "shared" / "run" / "snapd-storage.sock"
    return daemon


def test_a_stop_ends_waits_and_streams_and_tells_the_watchers_of_health(
    daemon: running.Daemon, client: running.Client
) -> None:
    upload = Upload(client)
    (operation,) = client.operations.ListOperations(
        operations_pb2.ListOperationsRequest(name="environments/a", filter="done = false")
    ).operations
    health = client.health.Watch(health_pb2.HealthCheckRequest(service="snapd.v1.VolumeService"))
    assert next(health).status == health_pb2.HealthCheckResponse.SERVING
    waiting = client.operations.WaitOperation.future(operations_pb2.WaitOperationRequest(name=operation.name))
    client.environments.GetEnvironment(environment_service_pb2.GetEnvironmentRequest(name="environments/a"))
    assert daemon.stop() == 0
    assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
    for call in (waiting.result, lambda: next(upload.answers), lambda: next(health)):
        refused = _refused(call)
        assert (refused.code(), running.reason(refused)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    upload.end()


def test_a_stop_does_not_wait_for_a_client_that_reads_no_further(
    daemon: running.Daemon, client: running.Client
) -> None:
    name = "environments/a/volumes/v1"
    request = volumes.CreateVolumeRequest(
        parent="environments/a", volume_id="v1", volume=volumes.Volume(size_bytes=64 * MIB)
    )
    client.volumes.CreateVolume(request)
    data = bytes(range(256)) * (MIB // 256)

    def writes() -> Iterator[volumes.WriteBlocksRequest]:
        yield volumes.WriteBlocksRequest(start=volumes.WriteBlocksRequest.Start(name=name))
        for offset in range(0, 64 * MIB, MIB):
            chunk = transfer_pb2.DataChunk(offset=offset, data=data, crc32c=google_crc32c.value(data))
            yield volumes.WriteBlocksRequest(data=chunk)

    list(client.volumes.WriteBlocks(writes()))
    stalled = client.volumes.ExportVolume(volumes.ExportVolumeRequest(source=name))
    next(stalled)
    assert daemon.stop() == 0
    refused = _refused(lambda: list(stalled))
    assert refused.code() is grpc.StatusCode.UNAVAILABLE


def test_what_was_accepted_goes_on_when_its_caller_gives_up(client: running.Client) -> None:
    request = volumes.CreateVolumeRequest(
        parent="environments/a",
        volume_id="v1",
        volume=volumes.Volume(size_bytes=MIB),
        request_id="8c5d3f6e-3a53-4a07-a9cf-7fd8c9e3c1b2",
    )
    for _ in range(20):
        call = client.volumes.CreateVolume.future(request)
        call.cancel()
    created = client.volumes.CreateVolume(request)
    client.done(created.operation)
    listed = client.volumes.ListVolumes(volumes.ListVolumesRequest(parent="environments/a")).volumes
    assert [(volume.uid, volume.state) for volume in listed] == [(created.volume.uid, volumes.Volume.STATE_READY)]


def test_all_who_wait_for_an_operation_hear_of_its_end(client: running.Client) -> None:
    upload = Upload(client)
    listing = operations_pb2.ListOperationsRequest(name="environments/a", filter="done = false")
    (operation,) = client.operations.ListOperations(listing).operations
    request = operations_pb2.WaitOperationRequest(name=operation.name)
    waiting = [client.operations.WaitOperation.future(request) for _ in range(200)]
    upload.complete()
    ended = [wait.result(running.PATIENCE_S) for wait in waiting]
    assert all(found.done for found in ended)
    assert {found.name for found in ended} == {operation.name}


def test_what_was_answered_is_there_after_a_kill(daemon: running.Daemon, client: running.Client) -> None:
    request = volumes.CreateVolumeRequest(
        parent="environments/a", volume_id="v1", volume=volumes.Volume(size_bytes=MIB)
    )
    uid = client.volumes.CreateVolume(request).volume.uid
    daemon.kill()
    daemon.start()
    with daemon.client() as again:
        found = again.volumes.GetVolume(volumes.GetVolumeRequest(name="environments/a/volumes/v1"))
    assert found.volume.uid == uid


def test_a_wait_ends_at_its_time_limit_with_the_operation_as_it_is(client: running.Client) -> None:
    upload = Upload(client)
    listing = operations_pb2.ListOperationsRequest(name="environments/a", filter="done = false")
    (operation,) = client.operations.ListOperations(listing).operations
    limit = duration_pb2.Duration(nanos=1_000_000)
    found = client.operations.WaitOperation(
        operations_pb2.WaitOperationRequest(name=operation.name, timeout=limit), timeout=running.PATIENCE_S
    )
    assert (found.name, found.done) == (operation.name, False)
    upload.end()


def test_a_manager_hears_that_the_daemon_is_ready_alive_and_stopping(short_path: pathlib.Path) -> None:
    daemon = running.Daemon(short_path / "state")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        manager.settimeout(running.PATIENCE_S)
        try:
            daemon.launch(NOTIFY_SOCKET=str(short_path / "notify"), WATCHDOG_USEC="2000")
            heard = [manager.recv(100) for _ in range(20)]
            assert daemon.stop() == 0
        finally:
            daemon.kill()
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(manager.recv(100))
    assert set(heard) == {b"READY=1", b"WATCHDOG=1", b"STOPPING=1"}


def test_a_state_directory_belongs_to_one_daemon(daemon: running.Daemon) -> None:
    second = running.Daemon(daemon.state_dir)
    second.launch()
    assert second.ended() == 1
    told = second.log.read_text().splitlines()[-2:]
    assert f"is in use by another daemon (pid {daemon.process.pid})" in " ".join(told)
    with daemon.client() as client:
        assert client.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_a_socket_in_use_is_never_replaced(short_path: pathlib.Path) -> None:
    first, second = _config(short_path, "first"), _config(short_path, "second")
    try:
        first.start()
        inode = first.socket.stat().st_ino
        second.launch()
        assert second.ended() == 1
        assert f"{first.socket} is in use" in second.log.read_text()
        assert first.socket.stat().st_ino == inode
        assert stat.S_IMODE(first.socket.stat().st_mode) == 0o660
        with first.client() as client:
            assert client.health.Check(health_pb2.HealthCheckRequest()).status
        assert first.stop() == 0
        second.start()
    finally:
        first.kill()
        second.kill()


def test_of_daemons_that_start_at_once_on_one_socket_exactly_one_serves(short_path: pathlib.Path) -> None:
    daemons = [_config(short_path, f"d{number}") for number in range(3)]
    try:
        for daemon in daemons:
            daemon.launch()
        with daemons[0].client() as client:
            health = client.health.Check(
                health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=running.PATIENCE_S
            )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        holder = lockfile.holder(daemons[0].socket.with_name("snapd-storage.sock.lock"))
        serving = [daemon for daemon in daemons if str(daemon.process.pid) == holder]
        losers = [daemon for daemon in daemons if daemon not in serving]
        assert len(serving) == 1
        assert [daemon.ended() for daemon in losers] == [1, 1]
        assert serving[0].stop() == 0
    finally:
        for daemon in daemons:
            daemon.kill()


def test_one_kind_of_call_does_not_lock_out_another(short_path: pathlib.Path) -> None:
    daemon = _config(short_path, "limited", "[limits]\nstreams = 1\nunary_calls = 1\n")
    try:
        daemon.start()
        with daemon.client() as client:
            client.environments.CreateEnvironment(environment_service_pb2.CreateEnvironmentRequest(environment_id="a"))
            upload = Upload(client, "v1")
            refused = _refused(lambda: Upload(client, "v2"))
            assert (refused.code(), running.reason(refused)) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_CALLS",
            )
            assert running.info(refused).metadata["kind"] == "stream"
            client.environments.GetEnvironment(environment_service_pb2.GetEnvironmentRequest(name="environments/a"))
            upload.end()
        assert daemon.stop() == 0
    finally:
        daemon.kill()


def test_connections_beyond_the_limit_are_turned_away(short_path: pathlib.Path) -> None:
    daemon = _config(short_path, "limited", "[limits]\nconnections = 2\n")
    try:
        daemon.start()
        with contextlib.ExitStack() as stack:
            options = [("grpc.use_local_subchannel_pool", 1)]
            address = f"unix:{daemon.socket}"
            first, second, third = (
                running.Client(stack.enter_context(grpc.insecure_channel(address, options=options))) for _ in range(3)
            )
            for client in (first, second):
                client.health.Check(health_pb2.HealthCheckRequest(), timeout=running.PATIENCE_S)
            refused = _refused(lambda: third.health.Check(health_pb2.HealthCheckRequest(), timeout=running.PATIENCE_S))
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        daemon.kill()


def test_a_request_id_of_one_identity_means_nothing_to_another(short_path: pathlib.Path) -> None:
    listeners = "".join(
        f'[[listener]]\npath = "{short_path}/{name}.sock"\nidentity = "{name}"\n' for name in ("agent", "operator")
    )
    daemon = _config(short_path, "two", listeners)
    request_id = "8c5d3f6e-3a53-4a07-a9cf-7fd8c9e3c1b2"
    try:
        daemon.socket = short_path / "agent.sock"
        daemon.start()
        for name in ("agent", "operator"):
            daemon.socket = short_path / f"{name}.sock"
            with daemon.client() as client:
                client.environments.CreateEnvironment(
                    environment_service_pb2.CreateEnvironmentRequest(environment_id=name, request_id=request_id)
                )
        assert daemon.stop() == 0
    finally:
        daemon.kill()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[pool]\nlow_watermrk = '1GiB'", "line 4: pool.low_watermrk: no such key; did you mean pool.low_watermark?"),
        ("[[listener]]\npath = '/tmp/%s'" % ("x" * 110), "the path of a socket may have 107 bytes"),
        ("[[listener]]\n[[listener]]\npath = '/dev/null'", "something that is no socket has this name"),
        ("[pool]\npath = '/proc/none/pool'", "/proc/none"),
    ],
    ids=["unknown key", "long path", "second socket", "no such place"],
)
def test_a_daemon_that_cannot_start_says_why_in_one_line(short_path: pathlib.Path, text: str, told: str) -> None:
    daemon = _config(short_path, "bad", text)
    daemon.launch()
    assert daemon.ended() == 1
    lines = daemon.log.read_text().splitlines()
    assert lines[-1].startswith("Error: ")
    assert told in lines[-1]
    assert "Traceback" not in "".join(lines)
