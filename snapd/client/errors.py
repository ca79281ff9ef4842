"""What the daemon or the transport answers instead of a result, decoded from the statuses of gRPC.

It owns the reading of google.rpc details. What a reason means is said once, in snapd.errors, and looked up there.
"""

import dataclasses
import datetime
from collections.abc import Iterator
from typing import Final, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from snapd import errors

DOMAIN: Final = "snapd-storage"
"""The ErrorInfo domain of the daemon's own errors."""

_DETAILS_KEY: Final = "grpc-status-details-bin"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


@dataclasses.dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request or with the state of what it names."""

    subject: str
    """The request's field, or the resource."""
    description: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ApiError(Exception):
    """A call or an operation failed."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    """The daemon's stable reason (docs/errors.md); empty if the transport failed by itself."""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    """Every value that occurs in the message, by its name."""
    violations: tuple[Violation, ...] = ()
    retry_delay: datetime.timedelta | None = None
    """How long the daemon asks to be left alone before a retry."""

    @property
    def advice(self) -> str:
        """What a caller does about it; empty for a reason that this release doesn't know."""
        return _ADVICE.get(self.reason, "")

    @property
    def from_transport(self) -> bool:
        """Whether the connection failed rather than the daemon refused."""
        return not self.reason

    def __str__(self) -> str:
        return self.message


def from_status(status: status_pb2.Status) -> ApiError:
    """Return the error that a google.rpc.Status describes, as it stands in operations and resources."""
    error = ApiError(code=_CODES.get(status.code, grpc.StatusCode.UNKNOWN), message=status.message)
    for detail in status.details:
        _read_detail(error, detail)
    return error


def from_rpc_error(error: grpc.RpcError) -> ApiError:
    """Return the error of a call that ended. Raises nothing: what can't be read is left out."""
    call: object = cast(object, error)  # what a stub raises is a Call too, which the types of gRPC don't say
    if not isinstance(call, grpc.Call):
        return ApiError(code=grpc.StatusCode.UNKNOWN, message=str(error))
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    return ApiError(code=call.code(), message=call.details() or call.code().name)


def _read_detail(error: ApiError, detail: status_pb2.Status) -> None:
    """Add to error what one detail (a google.protobuf.Any) says, if it is of a kind known here."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    precondition = error_details_pb2.PreconditionFailure()
    retry = error_details_pb2.RetryInfo()
    if detail.Unpack(info):
        error.reason = info.reason
        error.metadata = dict(info.metadata)
    elif detail.Unpack(request):
        error.violations += tuple(Violation(item.field, item.description) for item in request.field_violations)
    elif detail.Unpack(precondition):
        error.violations += tuple(Violation(item.subject, item.description) for item in precondition.violations)
    elif detail.Unpack(retry):
        error.retry_delay = retry.retry_delay.ToTimedelta()


def _tree(root: type[errors.SnapdError]) -> Iterator[type[errors.SnapdError]]:
    """Yield an error class and everything below it."""
    yield root
    for branch in root.__subclasses__():
        yield from _tree(branch)


_ADVICE: Final = {error.reason: error.advice for error in _tree(errors.SnapdError)}
