import dataclasses
import inspect
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from snapd import errors
from snapd.rpc import errors as statuses
from snapd.service import problems

_VALUES: dict[Any, Any] = {str: "text", int: 7}


def _samples() -> list[errors.SnapdError]:
    """Return one of each error that has a reason of its own, with its fields filled in."""
    samples = []
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, errors.SnapdError) and "reason" in vars(kind):
            samples.append(kind(**{field.name: _VALUES[field.type] for field in dataclasses.fields(kind)}))
    return samples


def _info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def _status(error: errors.SnapdError) -> status_pb2.Status:
    return statuses.status(problems.describe(error))


@pytest.mark.parametrize("error", [e for e in _samples() if type(e) is not errors.SnapdError], ids=lambda e: e.reason)
def test_every_error_has_a_status_with_its_reason_and_all_its_values(error: errors.SnapdError) -> None:
    status = _status(error)
    info = _info(status)
    assert (info.domain, info.reason) == ("snapd-storage", error.reason)
    assert dict(info.metadata) == error.metadata()
    assert status.message == str(error)
    if not isinstance(error, errors.StartupError):
        assert statuses.code(status.code) is not grpc.StatusCode.INTERNAL


def test_reasons_are_unique() -> None:
    reasons = [error.reason for error in _samples()]
    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (
            errors.InvalidField(field="volume.size_bytes", problem="must be positive"),
            grpc.StatusCode.INVALID_ARGUMENT,
            error_details_pb2.BadRequest(
                field_violations=[{"field": "volume.size_bytes", "description": "must be positive"}]
            ),
        ),
        (
            errors.InvalidFilter(problem="can't read it"),
            grpc.StatusCode.INVALID_ARGUMENT,
            error_details_pb2.BadRequest(field_violations=[{"field": "filter", "description": "can't read it"}]),
        ),
        (
            errors.NotFound(resource_type="volume", name="environments/a/volumes/b"),
            grpc.StatusCode.NOT_FOUND,
            error_details_pb2.ResourceInfo(
                resource_type="volume",
                resource_name="environments/a/volumes/b",
                description="volume environments/a/volumes/b does not exist",
            ),
        ),
        (
            errors.UploadIncomplete(name="n", durable_offset=1, size_bytes=2),
            grpc.StatusCode.FAILED_PRECONDITION,
            error_details_pb2.PreconditionFailure(
                violations=[
                    {
                        "type": "UPLOAD_INCOMPLETE",
                        "subject": "n",
                        "description": "the upload of n ended at offset 1 of 2",
                    }
                ]
            ),
        ),
        (
            errors.TooManyCalls(kind="unary", limit=3),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            error_details_pb2.QuotaFailure(
                violations=[
                    {
                        "subject": "unary",
                        "description": "3 unary calls are under way, the most that one identity may have",
                    }
                ]
            ),
        ),
        (
            errors.Draining(),
            grpc.StatusCode.UNAVAILABLE,
            error_details_pb2.RetryInfo(retry_delay={"seconds": 1}),
        ),
    ],
    ids=lambda value: value.reason if isinstance(value, errors.SnapdError) else "",
)
def test_the_detail_that_tools_know_fits_the_code(
    error: errors.SnapdError, code: grpc.StatusCode, detail: error_details_pb2.BadRequest
) -> None:
    status = _status(error)
    assert statuses.code(status.code) is code
    found = type(detail)()
    assert status.details[1].Unpack(found)
    assert found == detail


def test_an_unexpected_error_tells_nothing_but_where_the_log_has_it() -> None:
    told, incident = statuses.internal()
    status = statuses.status(told)
    assert statuses.code(status.code) is grpc.StatusCode.INTERNAL
    assert dict(_info(status).metadata) == {"incident": incident}
    assert incident in status.message


def test_a_status_fits_into_the_trailers_whatever_the_caller_sent() -> None:
    status = _status(errors.NotFound(resource_type="volume", name="v" * 100_000))
    assert status.ByteSize() < 8 * 1024
