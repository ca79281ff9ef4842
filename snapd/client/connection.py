"""A channel to the daemon and the stubs on it.

It owns what every call has in common: the address, deadlines of unary calls, request ids, retries and the translation
of errors. Streams get none of that; transfers resume by themselves (snapd.client.upload, snapd.client.download).
"""

import json
import types
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Self

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import descriptor

from snapd import units
from snapd.client import errors
from snapd.v1 import (
    archive_service_pb2_grpc,
    environment_service_pb2,
    environment_service_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
    system_service_pb2,
    system_service_pb2_grpc,
    volume_service_pb2,
    volume_service_pb2_grpc,
)

DEFAULT_ADDRESS: Final = "/run/snapd-storage/snapd-storage.sock"
"""Where the daemon listens unless it is configured otherwise."""

DEFAULT_TIMEOUT_S: Final = 30.0
"""Deadline of a unary call that states none. Long work goes on in an operation, so that an answer comes at once."""

_MESSAGE_BYTES: Final = 64 * units.MIB

_RETRY_POLICY: Final = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

_SERVICES: Final[Sequence[descriptor.ServiceDescriptor]] = (
    environment_service_pb2.DESCRIPTOR.services_by_name["EnvironmentService"],
    volume_service_pb2.DESCRIPTOR.services_by_name["VolumeService"],
    snapshot_service_pb2.DESCRIPTOR.services_by_name["SnapshotService"],
    system_service_pb2.DESCRIPTOR.services_by_name["SystemService"],
    operations_pb2.DESCRIPTOR.services_by_name["Operations"],
)


class Client:
    """The stubs of every service on one channel. Their unary calls raise errors.ApiError and nothing of gRPC's.

    A call that changes something gets a request id if its caller gave none, so that a retry of the channel's own is
    harmless. Who repeats a call himself sets `request_id`. The stubs' `future` isn't meant to be used: it blocks.
    """

    environments: environment_service_pb2_grpc.EnvironmentServiceStub
    volumes: volume_service_pb2_grpc.VolumeServiceStub
    snapshots: snapshot_service_pb2_grpc.SnapshotServiceStub
    archives: archive_service_pb2_grpc.ArchiveServiceStub
    system: system_service_pb2_grpc.SystemServiceStub
    operations: operations_pb2_grpc.OperationsStub

    def __init__(self, channel: grpc.Channel, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._channel = channel
        intercepted = grpc.intercept_channel(channel, _UnaryCalls(timeout_s))
        self.environments = environment_service_pb2_grpc.EnvironmentServiceStub(intercepted)
        self.volumes = volume_service_pb2_grpc.VolumeServiceStub(intercepted)
        self.snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(intercepted)
        self.archives = archive_service_pb2_grpc.ArchiveServiceStub(intercepted)
        self.system = system_service_pb2_grpc.SystemServiceStub(intercepted)
        self.operations = operations_pb2_grpc.OperationsStub(intercepted)

    def close(self) -> None:
        """Close the channel; calls under way end."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()


def connect(address: str = DEFAULT_ADDRESS, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Client:
    """Return a client of the daemon at a unix socket's path, a `unix:` address or `host:port`.

    Nothing is sent yet: a daemon that isn't there shows with the first call. timeout_s is the deadline of unary calls
    that state none. Raises ValueError if the address is empty.
    """
    return Client(grpc.insecure_channel(target(address), options=_channel_options()), timeout_s)


def target(address: str) -> str:
    """Return an address as gRPC writes it. Raises ValueError if it is empty."""
    if not address:
        raise ValueError("the daemon's address is empty")
    if address.startswith(("/", "./", "../")):
        return f"unix:{address}"
    return address


def new_request_id() -> str:
    """Return an id for one request and its retries."""
    return str(uuid.uuid4())


def _channel_options() -> list[tuple[str, Any]]:
    methods = [
        {"service": service.full_name, "method": method.name}
        for service in _SERVICES
        for method in service.methods
        if not (method.client_streaming or method.server_streaming)
    ]
    return [
        ("grpc.service_config", json.dumps({"methodConfig": [{"name": methods, "retryPolicy": _RETRY_POLICY}]})),
        # The daemon is on this host or named on purpose; an http_proxy variable is not about it.
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", _MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]


class _CallDetails(NamedTuple):
    """What gRPC asks an interceptor for; its own class for it is private."""

    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _UnaryCalls(grpc.UnaryUnaryClientInterceptor):
    """Gives unary calls a deadline and a request id, and raises typed errors."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,
        request: Any,
    ) -> Any:
        details = _CallDetails(
            client_call_details.method,
            self._timeout_s if client_call_details.timeout is None else client_call_details.timeout,
            client_call_details.metadata,
            client_call_details.credentials,
            client_call_details.wait_for_ready,
            client_call_details.compression,
        )
        call = continuation(details, _with_request_id(request))
        error = call.exception()
        if isinstance(error, grpc.RpcError):
            raise errors.from_rpc_error(error) from error
        return call


def _with_request_id(request: Any) -> Any:
    """Return the request, or a copy with an id if it takes one and has none."""
    if "request_id" not in request.DESCRIPTOR.fields_by_name or request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = new_request_id()
    return copy
