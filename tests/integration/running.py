"""The real daemon, run as a process of its own on a state directory of the test's."""

import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from snapd.v1 import (
    archive_service_pb2_grpc,
    environment_service_pb2_grpc,
    snapshot_service_pb2_grpc,
    system_service_pb2_grpc,
    volume_service_pb2_grpc,
)

PATIENCE_S = 60.0
"""Far more than anything here takes, on a slow machine too."""

_SOURCES = pathlib.Path(__file__).parents[2]


class Client:
    """The stubs of one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.environments = environment_service_pb2_grpc.EnvironmentServiceStub(channel)
        self.volumes = volume_service_pb2_grpc.VolumeServiceStub(channel)
        self.snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(channel)
        self.archives = archive_service_pb2_grpc.ArchiveServiceStub(channel)
        self.system = system_service_pb2_grpc.SystemServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    def done(self, operation: str) -> operations_pb2.Operation:
        """Wait for an operation's end and return it."""
        timeout = duration_pb2.Duration(seconds=int(PATIENCE_S))
        found = self.operations.WaitOperation(operations_pb2.WaitOperationRequest(name=operation, timeout=timeout))
        assert found.done, f"{operation} is not done after {PATIENCE_S} s"
        return found


class Daemon:
    """A daemon on a state directory. It can be stopped or killed and started again."""

    def __init__(self, state_dir: pathlib.Path, config: pathlib.Path | None = None) -> None:
        self.state_dir = state_dir
        self.socket = state_dir / "run" / "snapd-storage.sock"
        self.log = state_dir.with_name(f"{state_dir.name}.log")
        self._arguments = ["--state-dir", str(state_dir)] if config is None else ["--config", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None, "the daemon was not started"
        return self._process

    def command(self) -> list[str]:
        """Return the command line that starts the daemon next."""
        return [sys.executable, "-m", "snapd", "serve", *self._arguments]

    def launch(self, **environment: str) -> None:
        """Start the process, without waiting for anything."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=_SOURCES,
                env=os.environ | environment,
            )

    def start(self, **environment: str) -> None:
        """Start the process and wait until it says that it is ready, and serves."""
        address = f"\0snapd-storage-test-{self.state_dir}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notification:
            notification.bind(address)
            self.launch(NOTIFY_SOCKET=f"@{address[1:]}", **environment)
            ended = os.pidfd_open(self.process.pid)
            try:
                select.select([notification.fileno(), ended], [], [], PATIENCE_S)
            finally:
                os.close(ended)
            assert self.process.poll() is None, self.log.read_text()
            notification.setblocking(False)
            assert notification.recv(100) == b"READY=1"
        with self.client() as client:
            health = client.health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            assert health.status == health_pb2.HealthCheckResponse.SERVING

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect."""
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            yield Client(channel)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the process and return its exit status."""
        return self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """Stop the process in order and return its exit status."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """End the process at once, and leave everything as it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def reason(error: grpc.RpcError) -> str:
    """Return the reason that a status carries, or '' if the transport raised it."""
    return str(info(error).reason)


def info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """Return the ErrorInfo of a status, empty if there is none."""
    found = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    if status is not None:
        assert status.details[0].Unpack(found)
    return found
