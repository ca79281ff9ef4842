import dataclasses
import datetime
import enum

import pytest
from google.protobuf import duration_pb2, field_mask_pb2
from google.protobuf.internal import enum_type_wrapper

from snapd import model
from snapd.qcow2.checking import check
from snapd.rpc import checking as verdicts
from snapd.rpc import convert, methods
from snapd.service import checking, usage, work
from snapd.v1 import (
    environment_service_pb2,
    operation_pb2,
    snapshot_service_pb2,
    system_service_pb2,
    volume_service_pb2,
)

_NOW = datetime.datetime(2026, 11, 22, 15, 44, 55, 123456, tzinfo=datetime.UTC)
_FIELDS = {"display_name": "display_name", "labels": "labels", "retention_duration": "retention"}


def _request(etag: str = "", request_id: str = "") -> volume_service_pb2.DeleteVolumeRequest:
    return volume_service_pb2.DeleteVolumeRequest(name="environments/a/volumes/b", etag=etag, request_id=request_id)


def _digest(request: volume_service_pb2.DeleteVolumeRequest) -> bytes:
    return convert.request(request, "agent", "DeleteVolume", "a").digest


def test_the_digest_of_a_request_covers_all_but_its_id() -> None:
    assert _digest(_request()) == _digest(_request(request_id="1"))
    assert _digest(_request()) != _digest(_request(etag="1"))


def test_the_digest_does_not_depend_on_the_order_of_labels() -> None:
    digests = set()
    for keys in (("a", "b", "c"), ("c", "b", "a")):
        environment = environment_service_pb2.Environment(labels=dict.fromkeys(keys, "x"))
        request = environment_service_pb2.CreateEnvironmentRequest(environment=environment)
        digests.add(convert.request(request, "agent", "CreateEnvironment", "").digest)
    assert len(digests) == 1


def test_where_an_upload_resumes_is_not_part_of_what_is_asked_for() -> None:
    first = volume_service_pb2.ImportVolumeRequest.Start(parent="environments/a", size_bytes=512)
    again = volume_service_pb2.ImportVolumeRequest.Start(parent="environments/a", size_bytes=512, resume_offset=256)
    assert convert.request(first, "a", "ImportVolume", "a") == convert.request(again, "a", "ImportVolume", "a")


def test_an_empty_mask_stands_for_the_fields_that_are_set() -> None:
    environment = environment_service_pb2.Environment(name="environments/a", labels={"k": "v"})
    assert convert.changes(environment, field_mask_pb2.FieldMask(), _FIELDS) == {"labels": {"k": "v"}}


def test_a_masked_field_that_is_not_set_is_cleared() -> None:
    mask = field_mask_pb2.FieldMask(paths=["display_name", "labels", "retention_duration"])
    changes = convert.changes(environment_service_pb2.Environment(), mask, _FIELDS)
    assert changes == {"display_name": "", "labels": {}, "retention": None}


def test_a_retention_keeps_its_microseconds() -> None:
    environment = environment_service_pb2.Environment(retention_duration=duration_pb2.Duration(seconds=5, nanos=7000))
    assert convert.retention(environment) == datetime.timedelta(seconds=5, microseconds=7)


@pytest.mark.parametrize(("asked", "given"), [(0, 100), (1, 1), (1000, 1000), (5000, 1000)])
def test_a_page_has_a_default_and_a_largest_size(asked: int, given: int) -> None:
    query = convert.query(volume_service_pb2.ListVolumesRequest(page_size=asked), "agent", "a")
    assert query.page_size == given


@pytest.mark.parametrize(
    ("states", "wire", "prefix"),
    [
        (model.VolumeState, volume_service_pb2.Volume.State, "STATE_"),
        (model.VolumeRole, volume_service_pb2.Volume.Role, "ROLE_"),
        (model.SnapshotState, snapshot_service_pb2.Snapshot.State, "STATE_"),
        (model.ArchiveState, snapshot_service_pb2.Snapshot.Archive.State, "STATE_"),
        (model.HealthState, snapshot_service_pb2.Snapshot.Health.State, "STATE_"),
        (model.ImageFormat, volume_service_pb2.ImageFormat, "IMAGE_FORMAT_"),
        (model.Worker, system_service_pb2.Worker, "WORKER_"),
    ],
)
def test_every_state_of_the_domain_is_one_on_the_wire(
    states: type[enum.StrEnum], wire: "enum_type_wrapper.EnumTypeWrapper", prefix: str
) -> None:
    assert {f"{prefix}{state}" for state in states} | {f"{prefix}UNSPECIFIED"} == set(wire.keys())


def test_a_pause_is_told_with_all_that_is_known_of_it() -> None:
    until = _NOW + datetime.timedelta(hours=2)
    pause = model.Pause("backup", "operator", _NOW, until)
    paused = convert.work_state(work.WorkState(model.Worker.ARCHIVER, pause, 0, 7))
    assert (paused.paused, paused.reason, paused.paused_by, paused.waiting_count) == (True, "backup", "operator", 7)
    assert paused.resume_time.ToDatetime(datetime.UTC) == until
    on = convert.work_state(work.WorkState(model.Worker.KEEPER, None, 1, 0))
    assert (on.paused, on.HasField("pause_time"), on.running_count) == (False, False, 1)
    request = system_service_pb2.PauseWorkRequest(workers=[on.worker, paused.worker])
    assert convert.workers(request.workers) == (model.Worker.KEEPER, model.Worker.ARCHIVER)
    assert convert.pause_length(request) is None
    request.pause_duration.FromTimedelta(datetime.timedelta(minutes=1))
    assert convert.pause_length(request) == datetime.timedelta(minutes=1)


def test_the_usage_of_an_environment_is_told_as_far_as_it_is_known() -> None:
    figures = model.ArchiveFigures(changed=7, read=6, zero=1, deduplicated=2, new=4)
    found = usage.EnvironmentUsage(
        "a", 2, 3, 1, 100, model.Space(10, 20), 50, figures, 5, (("uid", model.Space(3, 4)),)
    )
    told = convert.environment_usage(found)
    (one,) = told.archive.snapshots
    assert (one.snapshot_uid, one.exclusive_bytes, one.shared_bytes) == ("uid", 3, 4)
    assert (told.name, told.volume_count, told.snapshot_count, told.archived_snapshot_count) == (
        "environments/a",
        2,
        3,
        1,
    )
    assert (told.primary.exclusive_bytes, told.primary.shared_bytes, told.provisioned_bytes) == (10, 20, 100)
    assert (told.archive.reachable, told.archive.stored_bytes, told.archive.logical_bytes) == (True, 5, 50)
    assert (told.archive.changed_bytes, told.archive.deduplicated_bytes) == (7, 2)
    away = convert.environment_usage(dataclasses.replace(found, stored_bytes=None))
    assert (away.archive.reachable, away.archive.stored_bytes, away.archive.new_bytes) == (False, 0, 4)


def _operation(error: model.Problem | None) -> model.Operation:
    return model.Operation(
        uid="u",
        environment_uid="e",
        environment="a",
        id="op-1",
        method="RevertVolume",
        target="environments/a/volumes/b",
        target_uid="v",
        done=True,
        error=error,
        created=_NOW,
        ended=_NOW + datetime.timedelta(seconds=1),
    )


def test_an_operation_carries_its_metadata_and_its_result() -> None:
    response = volume_service_pb2.Volume(name="environments/a/volumes/b")
    operation = convert.operation(_operation(None), response)
    metadata, volume = operation_pb2.OperationMetadata(), volume_service_pb2.Volume()
    assert operation.metadata.Unpack(metadata)
    assert operation.response.Unpack(volume)
    assert operation.name == "environments/a/operations/op-1"
    assert metadata.method == methods.BY_NAME["RevertVolume"].full_name == "snapd.v1.VolumeService/RevertVolume"
    assert metadata.create_time.ToDatetime(datetime.UTC) == _NOW
    assert volume == response


def test_an_operation_that_failed_carries_its_error_instead() -> None:
    problem = model.Problem("ResourceExhausted", "POOL_FULL", "full", {"free_bytes": "1"})
    operation = convert.operation(_operation(problem), None)
    assert operation.WhichOneof("result") == "error"
    assert operation.error.code == 8
    assert operation.error.message == "full"


_COUNTS = {
    "allocated_clusters": 4,
    "compressed_clusters": 1,
    "fragmented_clusters": 2,
    "total_clusters": 16,
    "image_end_bytes": 655360,
}


@pytest.mark.parametrize(
    ("leaks", "corruptions", "check_errors", "verdict"),
    [(0, 0, 0, "CLEAN"), (3, 0, 0, "LEAKING"), (3, 1, 0, "CORRUPT"), (0, 0, 1, "CORRUPT")],
)
def test_a_verdict_is_that_of_what_was_counted(leaks: int, corruptions: int, check_errors: int, verdict: str) -> None:
    report = check.CheckReport(leaks=leaks, corruptions=corruptions, check_errors=check_errors, **_COUNTS)
    message = verdicts.verdict(checking.LayerCheck(1, 2, report))
    assert message.Verdict.Name(message.verdict) == f"VERDICT_{verdict}"
    assert (message.depth, message.layer_count) == (1, 2)
    assert (message.leaks, message.corruptions, message.check_errors) == (leaks, corruptions, check_errors)
    assert (message.allocated_clusters, message.fragmented_clusters, message.compressed_clusters) == (4, 2, 1)
    assert (message.total_clusters, message.image_end_offset) == (16, 655360)


def test_what_cannot_be_counted_is_corrupt() -> None:
    message = verdicts.verdict(checking.LayerCheck(0, 1, None, "no magic"))
    assert (message.verdict, message.problem) == (message.VERDICT_CORRUPT, "no magic")
