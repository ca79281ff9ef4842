"""The servers: one for each listener, all on one event loop, started and stopped together."""

import asyncio
import pathlib
from typing import Any

import grpc
import structlog
from google.longrunning import operations_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from snapd.rpc import (
    archives,
    drain,
    environments,
    hub,
    interceptor,
    operations,
    snapshots,
    sockets,
    system,
    volumes,
    workers,
)
from snapd.rpc import edge as edges
from snapd.rpc import identity as identities
from snapd.service import service as services
from snapd.v1 import (
    archive_service_pb2_grpc,
    environment_service_pb2_grpc,
    snapshot_service_pb2_grpc,
    system_service_pb2_grpc,
    volume_service_pb2_grpc,
)

SERVICES = (
    "snapd.v1.EnvironmentService",
    "snapd.v1.VolumeService",
    "snapd.v1.SnapshotService",
    "snapd.v1.ArchiveService",
    "snapd.v1.SystemService",
    "google.longrunning.Operations",
)

_log = structlog.get_logger(__name__)


class Server:
    """Everything that is served. Made, used and stopped inside one event loop."""

    def __init__(
        self,
        service: services.Service,
        limits: identities.Limits,
        info: system.Info,
        message_bytes: int,
        connections: int,
    ) -> None:
        """Serve a service, with messages of message_bytes at most and so many connections to each listener."""
        self._service = service
        self._limits = limits
        self._info = info
        self._options = _options(message_bytes, connections)
        self._drain = drain.Drain()
        self._hub = hub.Hub(asyncio.get_running_loop())
        self._workers = workers.Workers()
        self._health = health.aio.HealthServicer()
        self._identities: dict[str, identities.Identity] = {}
        self._listening: list[tuple[grpc.aio.Server, sockets.Claim]] = []
        service.subscribe(self._hub.committed)

    def listen(self, path: pathlib.Path, identity: str, group: str, mode: int) -> None:
        """Bind a socket whose callers are an identity. Raises SocketBusy, SocketPathUnusable, StorageFailed.

        The umask is changed for a moment: no thread may make files meanwhile.
        """
        caller = self._identities.setdefault(identity, identities.Identity(identity, self._limits))
        claim = sockets.claim(path, group, mode)
        server = grpc.aio.server(interceptors=[interceptor.Interceptor(caller, self._drain)], options=self._options)
        self._add_services(server, edges.Edge(self._service, caller, self._workers, self._hub))
        claim.bind(server.add_insecure_port)
        self._listening.append((server, claim))
        _log.info("listening", path=str(path), identity=identity)

    def _add_services(self, server: grpc.aio.Server, edge: edges.Edge) -> None:
        environment_service_pb2_grpc.add_EnvironmentServiceServicer_to_server(
            environments.EnvironmentServicer(edge), server
        )
        volume_service_pb2_grpc.add_VolumeServiceServicer_to_server(volumes.VolumeServicer(edge), server)
        snapshot_service_pb2_grpc.add_SnapshotServiceServicer_to_server(snapshots.SnapshotServicer(edge), server)
        archive_service_pb2_grpc.add_ArchiveServiceServicer_to_server(archives.ArchiveServicer(edge), server)
        system_service_pb2_grpc.add_SystemServiceServicer_to_server(system.SystemServicer(edge, self._info), server)
        operations_pb2_grpc.add_OperationsServicer_to_server(operations.OperationsServicer(edge), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    async def start(self) -> None:
        """Begin to answer on all listeners."""
        for name in SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        for server, _claim in self._listening:
            await server.start()

    async def stop(self, grace_s: float) -> None:
        """Stop in order: say so, refuse new work, end waits and streams, let calls finish, close the sockets.

        Calls that take longer than grace_s are cut off; what they began in a thread is waited for all the same.
        """
        await self._health.enter_graceful_shutdown()
        await self._drain.begin(grace_s)
        await asyncio.gather(*(server.stop(grace_s) for server, _claim in self._listening))
        await asyncio.to_thread(self._workers.close)
        for _server, claim in self._listening:
            claim.close()


def _options(message_bytes: int, connections: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_concurrent_streams", 4096),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
