"""What the caller is told of an error: the only place where our errors become gRPC statuses.

A status carries a google.rpc.ErrorInfo with the reason and every value of the message, and the further details that
standard tools read. An error that isn't ours becomes INTERNAL with a number under which the log has the rest.
"""

import datetime
import secrets
from collections.abc import Mapping

import grpc
from google.protobuf import duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from snapd import errors, model

DOMAIN = "snapd-storage"
DETAILS_KEY = "grpc-status-details-bin"
RETRY_DELAY = datetime.timedelta(seconds=1)
"""After how long a caller may ask again when something is unavailable."""

_LONGEST_VALUE = 512
"""Characters of one metadata value: all details together have to fit in 8 KiB of trailers."""
_LONGEST_MESSAGE = 1024

_CODES: Mapping[str, grpc.StatusCode] = {
    errors.InvalidArgument.__name__: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound.__name__: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists.__name__: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition.__name__: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted.__name__: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Aborted.__name__: grpc.StatusCode.ABORTED,
    errors.OutOfRange.__name__: grpc.StatusCode.OUT_OF_RANGE,
    errors.Cancelled.__name__: grpc.StatusCode.CANCELLED,
    errors.Unavailable.__name__: grpc.StatusCode.UNAVAILABLE,
    errors.DataLoss.__name__: grpc.StatusCode.DATA_LOSS,
}
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

_FIELD_OF_REASON = {
    errors.InvalidFilter.reason: "filter",
    errors.InvalidPageToken.reason: "page_token",
    errors.RequestIdReused.reason: "request_id",
    errors.SnapshotOfAnotherVolume.reason: "snapshot",
}
"""The field at fault, for those invalid arguments that don't carry it."""


def internal() -> tuple[model.Problem, str]:
    """Return what a caller may know of an unexpected error, and the number under which it is logged."""
    incident = secrets.token_hex(4)
    text = f"internal error; the daemon's log has it as incident {incident}"
    root = errors.SnapdError
    return model.Problem(root.__name__, root.reason, text, {"incident": incident}), incident


def code(number: int) -> grpc.StatusCode:
    """Return the status code that a google.rpc.Status holds as a number."""
    return _BY_NUMBER[number]


def status(told: model.Problem) -> status_pb2.Status:
    """Return the status for a problem, with all details that fit it."""
    metadata = {key: _cut(value, _LONGEST_VALUE) for key, value in told.metadata.items()}
    text = _cut(told.message, _LONGEST_MESSAGE)
    number, _name = _CODES.get(told.branch, grpc.StatusCode.INTERNAL).value
    result = status_pb2.Status(code=number, message=text)
    info = error_details_pb2.ErrorInfo(reason=told.reason, domain=DOMAIN, metadata=metadata)
    for detail in (info, *_details(told, metadata, text)):
        result.details.add().Pack(detail)
    return result


def _details(told: model.Problem, metadata: Mapping[str, str], text: str) -> list[message.Message]:
    subject = next((metadata[key] for key in ("name", "volume", "snapshot", "path") if key in metadata), "")
    match told.branch:
        case errors.InvalidArgument.__name__:
            field = metadata.get("field", _FIELD_OF_REASON.get(told.reason, ""))
            description = metadata.get("problem", text)
            violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            return [error_details_pb2.BadRequest(field_violations=[violation])] if field else []
        case errors.FailedPrecondition.__name__:
            failure = error_details_pb2.PreconditionFailure()
            failure.violations.add(type=told.reason, subject=subject, description=text)
            return [failure]
        case errors.ResourceExhausted.__name__:
            quota = error_details_pb2.QuotaFailure()
            quota.violations.add(subject=subject or metadata.get("kind", "pool"), description=text)
            return [quota]
        case errors.NotFound.__name__ | errors.AlreadyExists.__name__:
            kind = metadata.get("resource_type", "")
            return [error_details_pb2.ResourceInfo(resource_type=kind, resource_name=subject, description=text)]
        case errors.Unavailable.__name__:
            delay = duration_pb2.Duration()
            delay.FromTimedelta(RETRY_DELAY)
            return [error_details_pb2.RetryInfo(retry_delay=delay)]
    return []


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
