"""What the stub daemon of the tests keeps in memory, what arrived, and how it is to misbehave."""

import collections
import dataclasses
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf import message
from google.rpc import error_details_pb2, status_pb2

from snapd.v1 import operation_pb2, system_service_pb2

PAGE = 2
"""Resources on a page, so that three of them take two."""


def status(code: grpc.StatusCode, reason: str, text: str = "refused", **metadata: str) -> status_pb2.Status:
    """Return a status as the daemon sends it."""
    found = status_pb2.Status(code=code.value[0], message=text)
    if reason:
        info = error_details_pb2.ErrorInfo(reason=reason, domain="snapd-storage", metadata=metadata)
        found.details.add().Pack(info)
    return found


@dataclasses.dataclass
class Memory:
    """What the daemon holds, and how it is to misbehave."""

    resources: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Environments, volumes, snapshots and operations by name."""
    contents: dict[str, bytearray] = dataclasses.field(default_factory=dict)
    """Bytes of volumes and snapshots by name."""
    received: list[Any] = dataclasses.field(default_factory=list)
    """Every request of a unary call, and the first of every stream, in order."""
    failures: dict[str, collections.deque[status_pb2.Status]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.deque)
    )
    """What the next calls of a method end with instead of an answer."""
    cuts: collections.deque[int] = dataclasses.field(default_factory=collections.deque)
    """Offsets at which the next streams break."""
    refused_at: int | None = None
    """Offset from which on the pool is full."""
    corrupt: bool = False
    """Whether downloads carry wrong checksums."""
    verdicts: list[Any] = dataclasses.field(default_factory=list)
    """What a check finds, file by file."""
    paused: dict[Any, Any] = dataclasses.field(default_factory=dict)
    """What holds a worker, by its number."""
    recovery: Any = dataclasses.field(default_factory=system_service_pb2.GetRecoveryReportResponse)
    """What it found at its start."""
    turns: int = 0
    """How often an operation is asked for before it is done."""

    def begin(self, method: str, request: message.Message, context: grpc.ServicerContext) -> None:
        """Note a request, and end the call if that is what is wanted."""
        self.received.append(request)
        if self.failures[method]:
            fail(context, self.failures[method].popleft())

    def find(self, name: str, context: grpc.ServicerContext) -> Any:
        """Return a resource, or end the call."""
        if name not in self.resources:
            text = f"Resource {name} does not exist"
            fail(context, status(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", text, name=name))
        return self.resources[name]

    def page(self, request: Any, collection: str) -> tuple[list[Any], str]:
        """Return a page of a parent's resources and the token of the next."""
        prefix = f"{getattr(request, 'parent', '')}/{collection}/".lstrip("/")
        names = sorted(
            name for name in self.resources if name.startswith(prefix) and name.count("/") == prefix.count("/")
        )
        start = int(request.page_token or 0)
        token = str(start + PAGE) if start + PAGE < len(names) else ""
        return [self.resources[name] for name in names[start : start + PAGE]], token

    def operation(self, method: str, target: str, response: message.Message | None = None) -> str:
        """Make an operation that is done after `turns` looks, and return its name."""
        environment = "/".join(target.split("/")[:2])
        count = sum("/operations/" in name for name in self.resources)
        operation = operations_pb2.Operation(name=f"{environment}/operations/op-{count}")
        operation.metadata.Pack(operation_pb2.OperationMetadata(method=method, target=target, bytes_total=self.turns))
        if response is not None:
            operation.response.Pack(response)
        self.resources[operation.name] = operation
        return str(operation.name)


def fail(context: grpc.ServicerContext, found: status_pb2.Status) -> None:
    """End a call with a status and its details."""
    code = next(code for code in grpc.StatusCode if code.value[0] == found.code)
    if found.details:
        context.set_trailing_metadata((("grpc-status-details-bin", found.SerializeToString()),))
    context.abort(code, found.message)
