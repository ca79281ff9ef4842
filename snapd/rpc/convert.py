"""Between messages and the domain. Pure: asks nobody, changes nothing; requests have been checked before."""

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

import blake3
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2, message, timestamp_pb2
from google.rpc import status_pb2

from snapd import model
from snapd.rpc import errors as statuses
from snapd.rpc import methods
from snapd.service import attachments, chains, lookup, usage, work
from snapd.service import names as service_names
from snapd.v1 import (
    attachment_pb2,
    environment_service_pb2,
    operation_pb2,
    snapshot_service_pb2,
    system_service_pb2,
    volume_service_pb2,
)

DEFAULT_PAGE = 100
LARGEST_PAGE = 1_000

_ROLES = {
    volume_service_pb2.Volume.ROLE_UNSPECIFIED: model.VolumeRole.DATA,
    volume_service_pb2.Volume.ROLE_ROOT: model.VolumeRole.ROOT,
    volume_service_pb2.Volume.ROLE_DATA: model.VolumeRole.DATA,
}
_WORKERS = {
    int(system_service_pb2.WORKER_ARCHIVER): model.Worker.ARCHIVER,
    int(system_service_pb2.WORKER_KEEPER): model.Worker.KEEPER,
}
_FORMATS = {
    volume_service_pb2.IMAGE_FORMAT_RAW: model.ImageFormat.RAW,
    volume_service_pb2.IMAGE_FORMAT_QCOW2: model.ImageFormat.QCOW2,
}


# --- from the wire ----------------------------------------------------------------------------------------------------


def request(message_: message.Message, identity: str, method: str, environment_id: str) -> model.Request:
    """Return who asks for a change, with the hash by which the same request is known again.

    For a stream, message_ is its first message; where an upload resumes is not part of what is asked for.
    """
    request_id = str(getattr(message_, "request_id", ""))
    bare = type(message_)()
    bare.CopyFrom(message_)
    for field in ("request_id", "resume_offset"):
        if field in bare.DESCRIPTOR.fields_by_name:
            bare.ClearField(field)
    digest = blake3.blake3(bare.SerializeToString(deterministic=True)).digest()
    return model.Request(identity, method, environment_id, request_id.lower(), digest)


def query(listing: Any, identity: str, environment_id: str) -> model.Query:
    """Return the parameters of a List request; environment_id is '' where environments are listed."""
    return model.Query(
        environment=environment_id,
        identity=identity,
        page_size=min(listing.page_size or DEFAULT_PAGE, LARGEST_PAGE),
        page_token=listing.page_token,
        filter=listing.filter,
        # The unmodified ListOperations has no order_by.
        order_by=getattr(listing, "order_by", ""),
    )


def changes(resource: Any, mask: Any, fields: Mapping[str, str]) -> dict[str, object]:
    """Return the new values of an update by the service's names, which `fields` gives for each of the message's.

    An empty mask stands for the fields that are set.
    """
    set_fields = {field.name for field, _value in resource.ListFields()}
    paths = set(mask.paths) or set_fields & set(fields)
    return {fields[path]: _plain(resource, path) for path in sorted(paths)}


def _plain(resource: Any, field: str) -> object:
    value = getattr(resource, field)
    if isinstance(value, duration_pb2.Duration):
        return retention(resource)
    return value if isinstance(value, str) else dict(value)


def retention(resource: Any) -> datetime.timedelta | None:
    """Return the retention that a message has, if it has one."""
    return resource.retention_duration.ToTimedelta() if resource.HasField("retention_duration") else None


def role(number: int) -> model.VolumeRole:
    """Return a volume's role."""
    return _ROLES[volume_service_pb2.Volume.Role.ValueType(number)]


def image_format(number: int) -> model.ImageFormat:
    """Return an image's format."""
    return _FORMATS[volume_service_pb2.ImageFormat.ValueType(number)]


def way(number: int) -> model.AttachmentWay:
    """Return how an instance comes to its disk: by NBD unless another way is named."""
    stated = attachment_pb2.Attachment.Way.ValueType(number) or attachment_pb2.Attachment.WAY_NBD
    return model.AttachmentWay(attachment_pb2.Attachment.Way.Name(stated).removeprefix("WAY_"))


def attachment_spec(request_: volume_service_pb2.AttachVolumeRequest) -> attachments.AttachmentSpec:
    """Return how a volume is to be lent."""
    return attachments.AttachmentSpec(
        way=way(request_.way),
        read_only=request_.read_only,
        writethrough=not request_.volatile_cache,
        limits=limits(request_.limits),
    )


def limits(found: attachment_pb2.AttachmentLimits) -> model.Limits:
    """Return what a guest may do in a second."""
    return model.Limits(found.iops, found.bytes_per_second)


def workers(numbers: Iterable[int]) -> tuple[model.Worker, ...]:
    """Return the parts of the background work that a request names."""
    return tuple(_WORKERS[number] for number in numbers)


def pause_length(request_: system_service_pb2.PauseWorkRequest) -> datetime.timedelta | None:
    """Return how long a pause lasts, or None if it has no end."""
    return request_.pause_duration.ToTimedelta() or None


# --- to the wire ------------------------------------------------------------------------------------------------------


def timestamp(moment: datetime.datetime | None) -> timestamp_pb2.Timestamp | None:
    """Return a time, which may be missing."""
    if moment is None:
        return None
    result = timestamp_pb2.Timestamp()
    result.FromDatetime(moment)
    return result


def duration(period: datetime.timedelta | None) -> duration_pb2.Duration | None:
    """Return a length of time, which may be missing."""
    if period is None:
        return None
    result = duration_pb2.Duration()
    result.FromTimedelta(period)
    return result


def problem(error: model.Problem | None) -> status_pb2.Status | None:
    """Return a stored error, which may be missing."""
    return None if error is None else statuses.status(error)


def environment(found: model.Environment) -> environment_service_pb2.Environment:
    """Return an environment."""
    return environment_service_pb2.Environment(
        name=service_names.environment(found.id),
        uid=found.uid,
        etag=lookup.etag(found.revision),
        display_name=found.display_name,
        labels=found.labels,
        retention_duration=duration(found.retention),
        create_time=timestamp(found.created),
        update_time=timestamp(found.updated),
    )


def environment_usage(found: usage.EnvironmentUsage) -> environment_service_pb2.EnvironmentUsage:
    """Return what an environment takes."""
    answer = environment_service_pb2.EnvironmentUsage
    return answer(
        name=service_names.environment(found.environment),
        volume_count=found.volumes,
        snapshot_count=found.snapshots,
        archived_snapshot_count=found.archived_snapshots,
        provisioned_bytes=found.provisioned_bytes,
        primary=answer.Primary(exclusive_bytes=found.primary.exclusive, shared_bytes=found.primary.shared),
        archive=answer.Archive(
            reachable=found.stored_bytes is not None,
            stored_bytes=found.stored_bytes or 0,
            logical_bytes=found.logical_bytes,
            changed_bytes=found.figures.changed,
            read_bytes=found.figures.read,
            zero_bytes=found.figures.zero,
            deduplicated_bytes=found.figures.deduplicated,
            new_bytes=found.figures.new,
            snapshots=[
                answer.SnapshotUsage(snapshot_uid=uid, exclusive_bytes=space.exclusive, shared_bytes=space.shared)
                for uid, space in found.by_snapshot
            ],
        ),
    )


def layer(depth: int, link: chains.Link) -> volume_service_pb2.Layer:
    """Return a layer of a volume's chain."""
    return volume_service_pb2.Layer(
        depth=depth,
        state=volume_service_pb2.Layer.State.Value(f"STATE_{link.layer.state}"),
        size_bytes=link.layer.size_bytes,
        allocated_bytes=link.allocated_bytes,
        create_time=timestamp(link.layer.created),
        snapshots=link.snapshots,
        volumes=link.volumes,
        volume_count=link.volume_count,
    )


def volume(
    found: model.Volume, space: model.Space, attachment: attachments.Shown | None = None
) -> volume_service_pb2.Volume:
    """Return a volume with what it takes on primary storage, and its attachment if it has one."""
    result = volume_service_pb2.Volume(
        name=service_names.volume(found.environment, found.id),
        uid=found.uid,
        etag=lookup.etag(found.revision),
        display_name=found.display_name,
        labels=found.labels,
        role=volume_service_pb2.Volume.Role.Value(f"ROLE_{found.role}"),
        instance=found.instance,
        size_bytes=found.size_bytes,
        state=volume_service_pb2.Volume.State.Value(f"STATE_{found.state}"),
        error=problem(found.error),
        space=volume_service_pb2.Volume.Space(exclusive_bytes=space.exclusive, shared_bytes=space.shared),
        attachment=None if attachment is None else attached(attachment),
        recovered=found.recovered,
        create_time=timestamp(found.created),
        update_time=timestamp(found.updated),
    )
    if found.source_snapshot.startswith("hosts/"):
        result.source_archived_snapshot = found.source_snapshot
    elif found.source_snapshot:
        result.source_snapshot = found.source_snapshot
    return result


def attached(found: attachments.Shown) -> attachment_pb2.Attachment:
    """Return an attachment with all that a hypervisor needs to connect."""
    attachment = found.attachment
    result = attachment_pb2.Attachment(
        state=attachment_pb2.Attachment.State.Value(f"STATE_{attachment.state}"),
        generation=found.generation,
        read_only=attachment.read_only,
        writethrough=attachment.writethrough,
        limits=attachment_pb2.AttachmentLimits(
            iops=attachment.limits.iops, bytes_per_second=attachment.limits.bytes_per_second
        ),
        attach_time=timestamp(attachment.created),
        error=problem(found.problem) if attachment.state is model.AttachmentState.STALLED else None,
    )
    if attachment.way is model.AttachmentWay.NBD:
        result.nbd.socket, result.nbd.export = found.socket, found.export
        result.nbd.uri = f"nbd+unix:///{found.export}?socket={found.socket}"
    else:
        result.vhost_user.socket = found.socket
    return result


def snapshot(
    found: model.Snapshot, space: model.Space, attachment: attachments.Shown | None = None
) -> snapshot_service_pb2.Snapshot:
    """Return a snapshot with what it takes on primary storage, and its attachment if it has one."""
    return snapshot_service_pb2.Snapshot(
        name=service_names.snapshot(found.environment, found.id),
        uid=found.uid,
        etag=lookup.etag(found.revision),
        display_name=found.display_name,
        labels=found.labels,
        source_volume=service_names.volume(found.environment, found.volume),
        source_volume_uid=found.volume_uid,
        size_bytes=found.size_bytes,
        state=snapshot_service_pb2.Snapshot.State.Value(f"STATE_{found.state}"),
        error=problem(found.error),
        rapid=found.rapid,
        requested_rapid=found.requested_rapid,
        retention_duration=duration(found.retention),
        archive=_archive(found.archive),
        health=_health(found),
        primary_bytes=space.exclusive,
        attachment=None if attachment is None else attached(attachment),
        recovered=found.recovered,
        capture_time=timestamp(found.captured),
        create_time=timestamp(found.created),
        update_time=timestamp(found.updated),
    )


def _health(found: model.Snapshot) -> snapshot_service_pb2.Snapshot.Health:
    health = snapshot_service_pb2.Snapshot.Health
    result = health(state=health.State.Value(f"STATE_{found.health}"))
    if found.damage is not None:
        result.damaged_bytes = found.damage.total_bytes
        result.damaged_ranges.extend(
            health.Range(offset=offset, length=length) for offset, length in found.damage.ranges
        )
    return result


def _archive(archive: model.Archive) -> snapshot_service_pb2.Snapshot.Archive:
    return snapshot_service_pb2.Snapshot.Archive(
        state=snapshot_service_pb2.Snapshot.Archive.State.Value(f"STATE_{archive.state}"),
        due_time=timestamp(archive.due),
        archive_time=timestamp(archive.archived),
        bytes_done=archive.bytes_done,
        bytes_total=archive.bytes_total,
        attempts=archive.attempts,
        error=problem(archive.error),
        next_attempt_time=timestamp(archive.next_attempt if archive.error else None),
        stored_bytes=archive.stored_bytes,
        paused=archive.paused,
        bytes_per_second=archive.bytes_per_second,
        estimated_end_time=timestamp(archive.estimated_end),
        changed_bytes=archive.figures.changed,
        read_bytes=archive.figures.read,
        zero_bytes=archive.figures.zero,
        deduplicated_bytes=archive.figures.deduplicated,
        new_bytes=archive.figures.new,
        check_time=timestamp(archive.checked),
    )


def operation_name(found: model.Operation | None) -> str:
    """Return an operation's name, or '' if there is none."""
    return "" if found is None else service_names.operation(found.environment, found.id)


def operation(found: model.Operation, response: message.Message | None) -> operations_pb2.Operation:
    """Return an operation; response is what it packs if it is done and nothing went wrong."""
    method = methods.BY_NAME.get(found.method)
    metadata = operation_pb2.OperationMetadata(
        method=method.full_name if method else found.method,
        target=found.target,
        stage=found.stage,
        bytes_done=found.bytes_done,
        bytes_total=found.bytes_total,
        bytes_per_second=found.bytes_per_second,
        estimated_end_time=timestamp(found.estimated_end),
        attempt=found.attempt,
        create_time=timestamp(found.created),
        end_time=timestamp(found.ended),
    )
    result = operations_pb2.Operation(name=operation_name(found), done=found.done, error=problem(found.error))
    result.metadata.Pack(metadata)
    if found.done and found.error is None and response is not None:
        result.response.Pack(response)
    return result


def archive_place(name: str) -> model.ArchivePlace | None:
    """Return the place that the name of an archived snapshot tells, or None if there is none."""
    if not name:
        return None
    _, host, _, environment_uid, _, snapshot_uid = name.split("/")
    return model.ArchivePlace(host, environment_uid, snapshot_uid)


def work_state(found: work.WorkState) -> system_service_pb2.WorkState:
    """Return what a part of the background work does."""
    pause = found.pause
    return system_service_pb2.WorkState(
        worker=system_service_pb2.Worker.Value(f"WORKER_{found.worker}"),
        paused=pause is not None,
        reason=pause.reason if pause else "",
        paused_by=pause.paused_by if pause else "",
        pause_time=timestamp(pause.since if pause else None),
        resume_time=timestamp(pause.until if pause else None),
        running_count=found.running,
        waiting_count=found.waiting,
    )


def capacity(found: model.Capacity) -> system_service_pb2.GetCapacityResponse:
    """Return the room that there is."""
    archive = system_service_pb2.ArchiveCapacity(reachable=False, error=problem(found.archive_error))
    if found.archive is not None:
        archive = system_service_pb2.ArchiveCapacity(
            reachable=True, free_bytes=found.archive.free, stored_bytes=found.archive.used
        )
    return system_service_pb2.GetCapacityResponse(
        pool=system_service_pb2.PoolCapacity(
            total_bytes=found.pool_total,
            free_bytes=found.pool_free,
            used_bytes=found.pool_used,
            low_watermark_bytes=found.pool_watermark,
        ),
        archive=archive,
    )
