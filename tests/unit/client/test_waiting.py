import grpc
import pytest

from snapd import client
from snapd.client import waiting
from snapd.v1 import environment_service_pb2, operation_pb2, volume_service_pb2
from tests.unit.client import stub_memory

TARGET = "environments/blue/volumes/root"


def test_a_wait_ends_with_the_resource(connection: client.Client, memory: stub_memory.Memory) -> None:
    name = memory.operation("CreateVolume", TARGET, volume_service_pb2.Volume(name=TARGET))
    operation = waiting.wait(connection, name)
    assert waiting.result(operation, volume_service_pb2.Volume).name == TARGET


def test_progress_is_told_until_the_end(connection: client.Client, memory: stub_memory.Memory) -> None:
    memory.turns = 3
    seen: list[operation_pb2.OperationMetadata] = []
    waiting.wait(connection, memory.operation("CreateVolume", TARGET), on_progress=seen.append)
    assert [metadata.bytes_done for metadata in seen] == [1, 2, 3, 3]
    assert {metadata.target for metadata in seen} == {TARGET}


def test_a_failed_operation_raises_its_error(connection: client.Client, memory: stub_memory.Memory) -> None:
    name = memory.operation("CreateVolume", TARGET)
    failure = stub_memory.status(grpc.StatusCode.RESOURCE_EXHAUSTED, "POOL_FULL", "full", free_bytes="1")
    memory.resources[name].error.CopyFrom(failure)
    with pytest.raises(client.ApiError, match="full") as caught:
        waiting.wait(connection, name)
    assert (caught.value.reason, caught.value.metadata) == ("POOL_FULL", {"free_bytes": "1"})


def test_a_wait_outlasts_a_daemon_that_is_away(connection: client.Client, memory: stub_memory.Memory) -> None:
    # More than the channel retries by itself.
    for _ in range(7):
        memory.failures["WaitOperation"].append(stub_memory.status(grpc.StatusCode.UNAVAILABLE, "DRAINING"))
    assert waiting.wait(connection, memory.operation("CreateVolume", TARGET)).done


def test_a_wait_gives_up_when_its_patience_ends(connection: client.Client, memory: stub_memory.Memory) -> None:
    for _ in range(50):
        memory.failures["WaitOperation"].append(stub_memory.status(grpc.StatusCode.UNAVAILABLE, "DRAINING"))
    with pytest.raises(client.ApiError) as caught:
        waiting.wait(connection, memory.operation("CreateVolume", TARGET), patience_s=0)
    assert caught.value.reason == "DRAINING"


def test_a_time_limit_ends_the_wait_and_not_the_work(connection: client.Client, memory: stub_memory.Memory) -> None:
    memory.turns = 1_000_000
    name = memory.operation("CreateVolume", TARGET)
    with pytest.raises(client.ApiError, match="it goes on") as caught:
        waiting.wait(connection, name, timeout_s=0)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_operation_that_is_not_there_is_not_waited_for(connection: client.Client) -> None:
    with pytest.raises(client.ApiError) as caught:
        waiting.wait(connection, "environments/blue/operations/none")
    assert caught.value.code == grpc.StatusCode.NOT_FOUND


def test_a_result_of_another_kind_is_a_type_error(connection: client.Client, memory: stub_memory.Memory) -> None:
    name = memory.operation("CreateVolume", TARGET, volume_service_pb2.Volume(name=TARGET))
    with pytest.raises(TypeError, match=r"snapd\.v1\.Volume"):
        waiting.result(waiting.wait(connection, name), environment_service_pb2.Environment)
