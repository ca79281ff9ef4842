import pathlib
import uuid

import grpc
import pytest
from google.rpc import error_details_pb2

from snapd import client
from snapd.client import connection as connections
from snapd.client import errors, pages
from snapd.v1 import environment_service_pb2 as api
from tests.unit.client import stub_memory


def create(connection: client.Client, environment_id: str, request_id: str = "") -> None:
    connection.environments.CreateEnvironment(
        api.CreateEnvironmentRequest(environment_id=environment_id, request_id=request_id)
    )


def test_a_mutation_gets_a_request_id_of_its_own(connection: client.Client, memory: stub_memory.Memory) -> None:
    create(connection, "blue")
    create(connection, "green")
    sent = [uuid.UUID(request.request_id) for request in memory.received]
    assert len(set(sent)) == 2


def test_a_given_request_id_is_kept(connection: client.Client, memory: stub_memory.Memory) -> None:
    request_id = connections.new_request_id()
    create(connection, "blue", request_id)
    assert memory.received == [api.CreateEnvironmentRequest(environment_id="blue", request_id=request_id)]


def test_an_unavailable_daemon_is_asked_again_with_the_same_request_id(
    connection: client.Client, memory: stub_memory.Memory
) -> None:
    for _ in range(2):
        memory.failures["CreateEnvironment"].append(stub_memory.status(grpc.StatusCode.UNAVAILABLE, "DRAINING"))
    create(connection, "blue")
    assert len(memory.received) == 3
    assert memory.received[0] == memory.received[2]


def test_a_refusal_is_not_asked_again(connection: client.Client, memory: stub_memory.Memory) -> None:
    refusal = stub_memory.status(grpc.StatusCode.ABORTED, "ETAG_MISMATCH", "changed", name="environments/blue")
    memory.failures["CreateEnvironment"].append(refusal)
    with pytest.raises(client.ApiError) as caught:
        create(connection, "blue")
    assert len(memory.received) == 1
    assert caught.value.code == grpc.StatusCode.ABORTED
    assert caught.value.reason == "ETAG_MISMATCH"
    assert caught.value.metadata == {"name": "environments/blue"}
    assert caught.value.advice == "Read it again, decide again, retry."
    assert str(caught.value) == "changed"


def test_a_daemon_that_is_not_there_is_an_error_of_the_transport(tmp_path: pathlib.Path) -> None:
    with client.connect(str(tmp_path / "nobody.sock")) as nobody, pytest.raises(client.ApiError) as caught:
        nobody.environments.GetEnvironment(api.GetEnvironmentRequest(name="environments/blue"), timeout=5)
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    assert caught.value.from_transport


def test_a_list_goes_over_all_its_pages(connection: client.Client) -> None:
    for name in ("a", "b", "c", "d", "e"):
        create(connection, name)
    found = pages.each(
        connection.environments.ListEnvironments, api.ListEnvironmentsRequest(), lambda page: page.environments
    )
    assert [environment.name for environment in found] == [f"environments/{name}" for name in "abcde"]


def test_details_beside_the_reason_are_read() -> None:
    status = stub_memory.status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="volume.size_bytes", description="not a multiple of 512")
    status.details.add().Pack(bad)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    status.details.add().Pack(retry)
    error = errors.from_status(status)
    assert error.violations == (errors.Violation("volume.size_bytes", "not a multiple of 512"),)
    assert error.retry_delay is not None
    assert error.retry_delay.total_seconds() == 1.5


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/run/a.sock", "unix:/run/a.sock"),
        ("./a.sock", "unix:./a.sock"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("host.example:7443", "host.example:7443"),
    ],
)
def test_an_address_is_a_path_or_a_host(address: str, expected: str) -> None:
    assert connections.target(address) == expected


def test_an_empty_address_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        client.connect("")
