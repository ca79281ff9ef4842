"""Waiting for operations, and what they lead to.

It owns the loop around WaitOperation: each call waits on the daemon's side for a while, and a daemon that restarts in
between is waited for too, because accepted work survives it.
"""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

import grpc
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2, message

from snapd import clock
from snapd.client import connection, errors, retry
from snapd.v1 import operation_pb2, snapshot_service_pb2

Progress = Callable[[operation_pb2.OperationMetadata], None]
Resource = TypeVar("Resource", bound=message.Message)

_LONGEST_TURN_S: Final = 20.0
_TURN_WITH_PROGRESS_S: Final = 0.5
_SLACK_S: Final = 10.0
"""What a call may take beyond the wait that it asks for."""


def wait(
    client: connection.Client,
    name: str,
    *,
    on_progress: Progress | None = None,
    timeout_s: float | None = None,
    patience_s: float = retry.DEFAULT_PATIENCE_S,
) -> operations_pb2.Operation:
    """Wait until an operation is done and return it.

    on_progress is called with the metadata about twice a second, and once at the end. Raises errors.ApiError: that of
    the operation if it failed, DEADLINE_EXCEEDED if it isn't done after timeout_s seconds (it goes on), NOT_FOUND, or
    UNAVAILABLE if the daemon stays away for patience_s seconds.
    """
    end_s = None if timeout_s is None else clock.monotonic_s() + timeout_s
    patience = retry.Patience(patience_s)
    while True:
        turn_s = _LONGEST_TURN_S if on_progress is None else _TURN_WITH_PROGRESS_S
        if end_s is not None:
            turn_s = max(0.0, min(turn_s, end_s - clock.monotonic_s()))
        try:
            operation = _turn(client, name, turn_s)
        except errors.ApiError as error:
            patience.pause(error)
            continue
        patience.moved()
        if on_progress is not None:
            on_progress(metadata(operation))
        if operation.done:
            if operation.HasField("error"):
                raise errors.from_status(operation.error)
            return operation
        if end_s is not None and clock.monotonic_s() >= end_s:
            raise errors.ApiError(
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
                message=f"{name} is not done after {timeout_s:g} seconds; it goes on",
            )


def wait_for_snapshot(
    client: connection.Client,
    name: str,
    *,
    archived: bool = False,
    on_progress: Callable[[snapshot_service_pb2.Snapshot], None] | None = None,
    timeout_s: float | None = None,
) -> snapshot_service_pb2.Snapshot:
    """Wait until a snapshot is `COMPLETED`, or archived, whatever operation leads there, and return it.

    Raises errors.ApiError: that of the snapshot if it failed, NOT_FOUND also if it is deleted meanwhile, and
    DEADLINE_EXCEEDED after timeout_s seconds.
    """
    end_s = None if timeout_s is None else clock.monotonic_s() + timeout_s
    pause = threading.Event()
    while True:
        request = snapshot_service_pb2.GetSnapshotRequest(name=name)
        snapshot = client.snapshots.GetSnapshot(request, wait_for_ready=True).snapshot
        if on_progress is not None:
            on_progress(snapshot)
        if snapshot.state == snapshot_service_pb2.Snapshot.STATE_FAILED:
            raise errors.from_status(snapshot.error)
        if archived:
            done = snapshot.archive.state == snapshot_service_pb2.Snapshot.Archive.STATE_ARCHIVED
        else:
            done = snapshot.state == snapshot_service_pb2.Snapshot.STATE_COMPLETED
        if done:
            return snapshot
        if end_s is not None and clock.monotonic_s() >= end_s:
            state = snapshot_service_pb2.Snapshot.State.Name(snapshot.state).removeprefix("STATE_")
            raise errors.ApiError(
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
                message=f"{name} is still {state} after {timeout_s:g} seconds; its archiving goes on",
            )
        pause.wait(_TURN_WITH_PROGRESS_S)


def metadata(operation: operations_pb2.Operation) -> operation_pb2.OperationMetadata:
    """Return an operation's metadata; empty if it has none of our kind."""
    found = operation_pb2.OperationMetadata()
    operation.metadata.Unpack(found)
    return found


def result(operation: operations_pb2.Operation, kind: type[Resource]) -> Resource:
    """Return what a finished operation led to. Raises TypeError if that isn't of the kind."""
    found = kind()
    if not operation.response.Unpack(found):
        raise TypeError(f"{operation.name} answers with {operation.response.TypeName() or 'nothing'}")
    return found


def _turn(client: connection.Client, name: str, turn_s: float) -> operations_pb2.Operation:
    timeout = duration_pb2.Duration()
    timeout.FromMilliseconds(round(turn_s * 1000))
    request = operations_pb2.WaitOperationRequest(name=name, timeout=timeout)
    operation: operations_pb2.Operation = client.operations.WaitOperation(request, timeout=turn_s + _SLACK_S)
    return operation
