"""snapvol volume attach, detach and limits, snapvol snapshot attach and detach: disks lent to virtual machines."""

import click

from snapd.cli import names, output, parameters, questions, session
from snapd.v1 import attachment_pb2
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import volume_service_pb2 as api

_WAYS = {
    "nbd": attachment_pb2.Attachment.WAY_NBD,
    "vhost-user-blk": attachment_pb2.Attachment.WAY_VHOST_USER_BLK,
}


def state(volume: api.Volume) -> str:
    """Return the state of a volume's attachment, or nothing if it is detached."""
    if not volume.HasField("attachment"):
        return ""
    return output.enum(attachment_pb2.Attachment.State.DESCRIPTOR, volume.attachment.state)


_iops = click.option("--iops", type=click.IntRange(0), default=0, help="Requests in a second; 0 for no limit.")
_bandwidth = click.option(
    "--bandwidth", type=parameters.SIZE, default=0, help="Bytes in a second, such as 100M; 0 for no limit."
)


@click.command(cls=session.Command)
@click.argument("name")
@click.option(
    "--way", type=click.Choice(list(_WAYS)), default="nbd", show_default=True, help="How the machine comes to it."
)
@click.option("--read-only", is_flag=True, help="The machine can't write it.")
@click.option("--volatile-cache", is_flag=True, help="Answer writes before they are durable.")
@_iops
@_bandwidth
@session.pass_session
def attach(
    run: session.Session, name: str, way: str, read_only: bool, volatile_cache: bool, iops: int, bandwidth: int
) -> None:
    """Lend a volume to its virtual machine, and say where that connects."""
    request = api.AttachVolumeRequest(
        name=names.full("volumes", name, run.environment),
        way=_WAYS[way],
        read_only=read_only,
        volatile_cache=volatile_cache,
        limits=attachment_pb2.AttachmentLimits(iops=iops, bytes_per_second=bandwidth),
    )
    output.resource(run, run.client.volumes.AttachVolume(request).volume)


@click.command(cls=session.Command)
@click.argument("name")
@click.option("--force", is_flag=True, help="Kill the process that serves it, which may hang.")
@questions.yes_option
@session.pass_session
def detach(run: session.Session, name: str, force: bool, yes: bool) -> None:
    """Take a volume back from its virtual machine, which should be stopped."""
    full = names.full("volumes", name, run.environment)
    if force:
        questions.confirm(f"Kill what serves {full}? What was not flushed is lost.", yes=yes)
    run.client.volumes.DetachVolume(api.DetachVolumeRequest(name=full, force=force))
    output.note(f"{full} is detached")


@click.command(cls=session.Command)
@click.argument("name")
@_iops
@_bandwidth
@session.pass_session
def limits(run: session.Session, name: str, iops: int, bandwidth: int) -> None:
    """Say what the virtual machine of an attached volume may do in a second. What isn't named has no limit."""
    request = api.SetVolumeLimitsRequest(
        name=names.full("volumes", name, run.environment),
        limits=attachment_pb2.AttachmentLimits(iops=iops, bytes_per_second=bandwidth),
    )
    output.resource(run, run.client.volumes.SetVolumeLimits(request).volume)


@click.command("attach", cls=session.Command)
@click.argument("name")
@_iops
@_bandwidth
@session.pass_session
def attach_snapshot(run: session.Session, name: str, iops: int, bandwidth: int) -> None:
    """Lend a snapshot to be looked into, and say where to connect."""
    request = snapshots.AttachSnapshotRequest(
        name=names.full("snapshots", name, run.environment),
        way=attachment_pb2.Attachment.WAY_NBD,
        limits=attachment_pb2.AttachmentLimits(iops=iops, bytes_per_second=bandwidth),
    )
    output.resource(run, run.client.snapshots.AttachSnapshot(request).snapshot)


@click.command("detach", cls=session.Command)
@click.argument("name")
@session.pass_session
def detach_snapshot(run: session.Session, name: str) -> None:
    """Take a snapshot back from whoever looks into it."""
    full = names.full("snapshots", name, run.environment)
    run.client.snapshots.DetachSnapshot(snapshots.DetachSnapshotRequest(name=full))
    output.note(f"{full} is detached")
