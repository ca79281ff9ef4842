"""snapvol volume: disks, apart from the transfer of their bytes (snapd.cli.transfers)."""

from typing import Any

import click

from snapd import units
from snapd.cli import (
    attachments,
    chains,
    failures,
    listing,
    names,
    output,
    parameters,
    progress,
    questions,
    session,
    transfers,
)
from snapd.client import checks
from snapd.v1 import volume_service_pb2 as api

COLUMNS: list[output.Column] = [
    ("VOLUME", lambda volume: names.short(volume.name)),
    ("STATE", lambda volume: output.enum(api.Volume.State.DESCRIPTOR, volume.state)),
    ("ROLE", lambda volume: output.enum(api.Volume.Role.DESCRIPTOR, volume.role)),
    ("SIZE", lambda volume: units.format_size(volume.size_bytes)),
    ("EXCLUSIVE", lambda volume: units.format_size(volume.space.exclusive_bytes)),
    ("SHARED", lambda volume: units.format_size(volume.space.shared_bytes)),
    ("INSTANCE", lambda volume: volume.instance),
    ("ATTACHMENT", attachments.state),
    ("CREATED", lambda volume: output.moment(volume.create_time)),
    ("RECOVERED", lambda volume: "yes" if volume.recovered else ""),
]
CHECK_COLUMNS: list[output.Column] = [
    ("DEPTH", lambda found: str(found.depth)),
    ("VERDICT", lambda found: output.enum(api.CheckVolumeResponse.Verdict.DESCRIPTOR, found.verdict)),
    ("CORRUPTIONS", lambda found: str(found.corruptions + found.check_errors)),
    ("LEAKS", lambda found: str(found.leaks)),
    ("FIXED", lambda found: str(found.corruptions_fixed + found.leaks_fixed)),
    ("ALLOCATED", lambda found: f"{found.allocated_clusters} of {found.total_clusters} clusters"),
    ("PROBLEM", lambda found: found.problem),
]
WITH_ENVIRONMENT: output.Column = ("ENVIRONMENT", lambda resource: resource.name.split("/")[1])


@click.group(cls=session.Noun)
def volume() -> None:
    """Volumes: the disks of an environment."""


for command in (
    *(transfers.import_, transfers.export, transfers.write),
    *(attachments.attach, attachments.detach, attachments.limits),
    chains.chain,
):
    volume.add_command(command)


@volume.command()
@click.argument("name", required=False, default="")
@click.option("--size", type=parameters.SIZE, help="Of an empty volume, such as 10G.")
@click.option(
    "--from-archive",
    "place",
    metavar="HOST/ENVIRONMENT_UID/SNAPSHOT_UID",
    help="Copy what a host has archived, as `archive list` names it.",
)
@transfers.properties
@transfers.wait_option
@session.pass_session
def create(
    run: session.Session, /, name: str, size: int | None, place: str | None, wait: bool, **properties: Any
) -> None:
    """Make an empty volume, or a copy of an archived snapshot of any host. Without a NAME one is generated."""
    if (size is None) == (place is None):
        raise click.UsageError("give either --size or --from-archive")
    wanted = transfers.wanted_volume(**properties)
    if place is not None:
        wanted.source_archived_snapshot = names.archived_snapshot(place)
        _create(run, name, wanted, wait=wait, title="fetching")
        return
    wanted.size_bytes = size or 0
    _create(run, name, wanted, wait=wait, title="creating")


@volume.command()
@click.argument("snapshot")
@click.argument("name", required=False, default="")
@transfers.properties
@transfers.wait_option
@session.pass_session
def clone(run: session.Session, /, snapshot: str, name: str, wait: bool, **properties: Any) -> None:
    """Make a volume with the contents of a SNAPSHOT. Without a NAME one is generated.

    The SNAPSHOT may be one that any host has archived, hosts/…: see `archive list`. It is copied in full.
    """
    wanted = transfers.wanted_volume(**properties)
    if snapshot.startswith("hosts/"):
        wanted.source_archived_snapshot = snapshot
        _create(run, name, wanted, wait=wait, title="fetching")
        return
    wanted.source_snapshot = names.full("snapshots", snapshot, run.environment)
    # A full name of the snapshot tells the environment too.
    environment = run.environment or wanted.source_snapshot.split("/")[1]
    _create(run, name, wanted, wait=wait, title="cloning", environment=environment)


@volume.command("list")
@listing.options
@session.pass_session
def list_(run: session.Session, filter_: str, order_by: str, limit: int | None) -> None:
    """List the volumes of an environment, or of all."""
    found = listing.each(
        run.client.volumes.ListVolumes,
        api.ListVolumesRequest(parent=names.parent(run.environment)),
        lambda page: page.volumes,
        filter_=filter_,
        order_by=order_by,
        limit=limit,
    )
    output.resources(run, found, COLUMNS if run.environment else [WITH_ENVIRONMENT, *COLUMNS])


@volume.command()
@click.argument("name")
@session.pass_session
def show(run: session.Session, name: str) -> None:
    """Show a volume."""
    output.resource(run, _get(run, names.full("volumes", name, run.environment)))


@volume.command()
@click.argument("name")
@click.option("--display-name", help="Free text.")
@click.option("--label", "labels", type=parameters.LABEL, multiple=True, help="Set a label.")
@click.option("--remove-label", "removed", metavar="KEY", multiple=True, help="Take a label away.")
@click.option("--instance", help="The virtual machine whose disk it is; '' for nobody's.")
@session.pass_session
def update(
    run: session.Session,
    name: str,
    display_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    instance: str | None,
) -> None:
    """Change what is said about a volume. What isn't named stays."""
    present = _get(run, names.full("volumes", name, run.environment))
    request = api.UpdateVolumeRequest(volume=api.Volume(name=present.name, etag=present.etag))
    if display_name is not None:
        request.volume.display_name = display_name
        request.update_mask.paths.append("display_name")
    if instance is not None:
        request.volume.instance = instance
        request.update_mask.paths.append("instance")
    if labels or removed:
        request.volume.labels.update(parameters.change_labels(dict(present.labels), labels, removed))
        request.update_mask.paths.append("labels")
    if not request.update_mask.paths:
        raise click.UsageError("say what to change")
    output.resource(run, run.client.volumes.UpdateVolume(request).volume)


@volume.command()
@click.argument("name")
@click.argument("snapshot")
@questions.yes_option
@transfers.wait_option
@session.pass_session
def revert(run: session.Session, name: str, snapshot: str, yes: bool, wait: bool) -> None:
    """Put the contents of one of its SNAPSHOTs back into a volume."""
    full = names.full("volumes", name, run.environment)
    target = names.full("snapshots", snapshot, run.environment or full.split("/")[1])
    questions.confirm(f"Revert {full} to {target}? What was written since its latest snapshot is lost.", yes=yes)
    answer = run.client.volumes.RevertVolume(api.RevertVolumeRequest(name=full, snapshot=target))
    _finish(run, answer.volume, answer.operation, wait=wait, title="reverting")


@volume.command()
@click.argument("name")
@click.option("--repair", is_flag=True, help="Put leaks and wrong refcounts of the head right.")
@session.pass_session
def check(run: session.Session, name: str, repair: bool) -> None:
    """Check the image files of a detached volume: its head (depth 0) and the layers that it stands on."""
    full = names.full("volumes", name, run.environment)
    found = list(checks.check_volume(run.client, full, repair=repair))
    output.resources(run, found, CHECK_COLUMNS)
    if any(each.verdict == api.CheckVolumeResponse.VERDICT_CORRUPT for each in found):
        raise failures.Damaged(f"{full} is damaged")


@volume.command()
@click.argument("name")
@click.option("--if-exists", is_flag=True, help="Succeed if it isn't there.")
@questions.yes_option
@transfers.wait_option
@session.pass_session
def delete(run: session.Session, name: str, if_exists: bool, yes: bool, wait: bool) -> None:
    """Delete a volume. Its snapshots stay."""
    full = names.full("volumes", name, run.environment)
    questions.confirm(f"Delete {full}?", yes=yes)
    answer = run.client.volumes.DeleteVolume(api.DeleteVolumeRequest(name=full, allow_missing=if_exists))
    if wait:
        progress.wait(run, answer.operation, "deleting")
    output.note(f"{full} is {'deleted' if wait else 'being deleted'}")


def _create(
    run: session.Session, name: str, wanted: api.Volume, *, wait: bool, title: str, environment: str = ""
) -> None:
    parent, volume_id = names.split("volumes", name, environment or run.environment)
    request = api.CreateVolumeRequest(parent=parent, volume_id=volume_id, volume=wanted)
    answer = run.client.volumes.CreateVolume(request)
    _finish(run, answer.volume, answer.operation, wait=wait, title=title)


def _finish(run: session.Session, present: api.Volume, operation: str, *, wait: bool, title: str) -> None:
    """Wait for the operation if asked to, and show the volume as it is then."""
    if wait and operation:
        progress.wait(run, operation, title)
        present = _get(run, present.name)
    elif operation:
        output.note(f"{operation} goes on")
    output.resource(run, present)


def _get(run: session.Session, name: str) -> api.Volume:
    return run.client.volumes.GetVolume(api.GetVolumeRequest(name=name)).volume
