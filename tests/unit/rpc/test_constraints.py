import datetime
import itertools
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2, field_mask_pb2, message
from hypothesis import given
from hypothesis import strategies as st

from snapd import errors
from snapd.rpc import constraints, methods
from snapd.v1 import (
    archive_service_pb2,
    environment_service_pb2,
    snapshot_service_pb2,
    system_service_pb2,
    transfer_pb2,
    volume_service_pb2,
)

_UUID = "8c5d3f6e-3a53-4a07-a9cf-7fd8c9e3c1b2"


def _request_type(key: str) -> Any:
    """Return the message that a row of the table is about."""
    method, _, part = key.partition(" ")
    files = (
        environment_service_pb2,
        volume_service_pb2,
        snapshot_service_pb2,
        archive_service_pb2,
        system_service_pb2,
        operations_pb2,
    )
    services = itertools.chain.from_iterable(file.DESCRIPTOR.services_by_name.values() for file in files)
    descriptor = next(
        service.methods_by_name[method].input_type for service in services if method in service.methods_by_name
    )
    if method in ("ImportVolume", "WriteBlocks"):
        descriptor = descriptor.fields_by_name[part or "start"].message_type
    return descriptor


def _refused_field(method: str, request: message.Message) -> str:
    with pytest.raises(errors.InvalidField) as refused:
        constraints.check(method, request)
    return refused.value.field


def test_the_table_has_a_row_for_every_method_and_no_other() -> None:
    rows = {key for key in constraints.TABLE if " " not in key}
    assert rows == {method.name for method in methods.ALL}


@pytest.mark.parametrize("key", constraints.TABLE)
def test_every_field_of_the_table_exists(key: str) -> None:
    for path in constraints.TABLE[key]:
        descriptor = _request_type(key)
        for part in path.split("."):
            assert descriptor is not None, path
            field = descriptor.fields_by_name[part]
            descriptor = field.message_type


@pytest.mark.parametrize("key", [key for key in constraints.TABLE if " " not in key])
def test_every_field_that_bears_a_name_or_a_request_id_is_constrained(key: str) -> None:
    known = {"name", "parent", "source", "snapshot", "request_id", "etag", "page_size", "page_token", "filter"}
    strings = {field.name for field in _request_type(key).fields if field.message_type is None}
    assert strings & known <= set(constraints.TABLE[key])


def test_a_good_request_of_each_shape_passes() -> None:
    volume = volume_service_pb2.Volume(
        display_name="Größe ✓",
        labels={"team/x.y-z": "blue"},
        role=volume_service_pb2.Volume.ROLE_DATA,
        size_bytes=512,
        instance="i-1",
    )
    constraints.check(
        "CreateVolume",
        volume_service_pb2.CreateVolumeRequest(parent="environments/a", volume=volume, request_id=_UUID),
    )
    constraints.check("ListVolumes", volume_service_pb2.ListVolumesRequest(parent="environments/-"))
    constraints.check("WaitOperation", operations_pb2.WaitOperationRequest(name="environments/a/operations/op-1"))


@pytest.mark.parametrize("name", ["a", "a1", "a-b", "a" * 63])
def test_ids_that_fit_the_pattern_pass(name: str) -> None:
    assert constraints.required_id(name) == ""


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a-", "a_b", "a.b", "a/b", "a" * 64, "ä", "a\n", "a b", ".."])
def test_ids_that_do_not_fit_the_pattern_are_refused(name: str) -> None:
    request = environment_service_pb2.CreateEnvironmentRequest(environment_id=name)
    assert _refused_field("CreateEnvironment", request) == "environment_id"


@pytest.mark.parametrize(
    "name",
    ["", "environments", "environments/", "environments/-", "environments/a/", "/environments/a", "environments/a/b"],
)
def test_names_that_do_not_parse_are_refused(name: str) -> None:
    request = environment_service_pb2.GetEnvironmentRequest(name=name)
    assert _refused_field("GetEnvironment", request) == "name"


@pytest.mark.parametrize(
    ("field", "volume"),
    [
        ("volume.size_bytes", {"size_bytes": 513}),
        ("volume.size_bytes", {"size_bytes": -512}),
        ("volume.size_bytes", {"size_bytes": (64 << 40) + 512}),
        ("volume.display_name", {"display_name": "x" * 129}),
        ("volume.display_name", {"display_name": "a\x1b[2J"}),
        ("volume.display_name", {"display_name": "a\u2028b"}),
        ("volume.instance", {"instance": "a\0"}),
        ("volume.labels", {"labels": {"Team": "x"}}),
        ("volume.labels", {"labels": {"": "x"}}),
        ("volume.labels", {"labels": {"a": "x" * 257}}),
        ("volume.labels", {"labels": {"a": "\n"}}),
        ("volume.labels", {"labels": {f"k{number}": "" for number in range(65)}}),
        ("volume.role", {"role": 3}),
        ("volume.source_snapshot", {"source_snapshot": "environments/a/volumes/b"}),
    ],
)
def test_a_volume_that_breaks_a_constraint_is_refused_by_field(field: str, volume: dict[str, Any]) -> None:
    request = volume_service_pb2.CreateVolumeRequest(
        parent="environments/a", volume=volume_service_pb2.Volume(**volume)
    )
    assert _refused_field("CreateVolume", request) == field


@pytest.mark.parametrize("request_id", ["x", _UUID[:-1], _UUID.replace("-", ""), f"{{{_UUID}}}", f"urn:uuid:{_UUID}"])
def test_a_request_id_that_is_no_uuid_is_refused(request_id: str) -> None:
    request = environment_service_pb2.DeleteEnvironmentRequest(name="environments/a", request_id=request_id)
    assert _refused_field("DeleteEnvironment", request) == "request_id"


def test_an_update_mask_may_only_name_what_can_be_changed() -> None:
    request = volume_service_pb2.UpdateVolumeRequest(
        volume=volume_service_pb2.Volume(name="environments/a/volumes/b"),
        update_mask=field_mask_pb2.FieldMask(paths=["labels", "size_bytes"]),
    )
    assert _refused_field("UpdateVolume", request) == "update_mask"


@pytest.mark.parametrize(
    "retention", [{"seconds": -1}, {"nanos": -1}, {"seconds": 3651 * 86400}, {"seconds": 1 << 62}, {"nanos": 1 << 30}]
)
def test_a_retention_outside_of_its_range_is_refused(retention: dict[str, int]) -> None:
    environment = environment_service_pb2.Environment(retention_duration=duration_pb2.Duration(**retention))
    request = environment_service_pb2.CreateEnvironmentRequest(environment_id="a", environment=environment)
    assert _refused_field("CreateEnvironment", request) == "environment.retention_duration"


@pytest.mark.parametrize("worker", [0, 3, -1])
def test_a_worker_that_does_not_exist_is_refused(worker: int) -> None:
    request = system_service_pb2.ResumeWorkRequest()
    request.workers.extend([system_service_pb2.WORKER_KEEPER, system_service_pb2.Worker.ValueType(worker)])
    assert _refused_field("ResumeWork", request) == "workers"


def test_a_pause_may_have_no_end_but_no_end_before_its_beginning() -> None:
    constraints.check("PauseWork", system_service_pb2.PauseWorkRequest(reason="nightly backup"))
    negative = system_service_pb2.PauseWorkRequest(pause_duration=duration_pb2.Duration(seconds=-1))
    assert _refused_field("PauseWork", negative) == "pause_duration"
    assert _refused_field("PauseWork", system_service_pb2.PauseWorkRequest(reason="a\nb")) == "reason"


def test_the_longest_retention_passes() -> None:
    longest = duration_pb2.Duration()
    longest.FromTimedelta(datetime.timedelta(days=3650))
    assert constraints.retention(longest) == ""


def test_chunks_are_bounded_and_written_in_whole_sectors() -> None:
    assert _refused_field("WriteBlocks data", transfer_pb2.DataChunk(offset=512, data=b"x" * 511)) == "data"
    assert _refused_field("ImportVolume data", transfer_pb2.DataChunk(data=b"x" * ((1 << 20) + 1))) == "data"
    assert _refused_field("ImportVolume data", transfer_pb2.DataChunk()) == "data"
    assert _refused_field("ImportVolume hole", transfer_pb2.Hole(offset=-1, length=1)) == "offset"
    assert _refused_field("WriteBlocks hole", transfer_pb2.Hole(length=511)) == "length"


_REQUESTS = {
    key: getattr(file, f"{key}Request")
    for key in constraints.TABLE
    for file in (
        environment_service_pb2,
        volume_service_pb2,
        snapshot_service_pb2,
        system_service_pb2,
        operations_pb2,
    )
    if hasattr(file, f"{key}Request") and key not in ("ImportVolume", "WriteBlocks")
}


@given(st.sampled_from(sorted(_REQUESTS)), st.binary(max_size=200))
def test_whatever_arrives_passes_or_is_refused_by_field_and_nothing_else_happens(method: str, wire: bytes) -> None:
    request = _REQUESTS[method]()
    try:
        request.ParseFromString(wire)
    except message.DecodeError:
        return
    refused = []
    try:
        constraints.check(method, request)
    except errors.InvalidField as error:
        refused.append(error.field)
    assert set(refused) <= set(constraints.TABLE[method])
