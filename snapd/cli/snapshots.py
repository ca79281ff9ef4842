"""snapvol snapshot: static copies of volumes' contents."""

import datetime

import click

from snapd import units
from snapd.cli import attachments, listing, names, output, parameters, progress, questions, session, transfers
from snapd.client import waiting
from snapd.v1 import snapshot_service_pb2 as api

COLUMNS: list[output.Column] = [
    ("SNAPSHOT", lambda snapshot: names.short(snapshot.name)),
    ("VOLUME", lambda snapshot: names.short(snapshot.source_volume)),
    ("STATE", lambda snapshot: output.enum(api.Snapshot.State.DESCRIPTOR, snapshot.state)),
    ("RAPID", lambda snapshot: "yes" if snapshot.rapid else "no"),
    ("ARCHIVE", lambda snapshot: output.enum(api.Snapshot.Archive.State.DESCRIPTOR, snapshot.archive.state)),
    ("HEALTH", lambda snapshot: output.enum(api.Snapshot.Health.State.DESCRIPTOR, snapshot.health.state)),
    ("SIZE", lambda snapshot: units.format_size(snapshot.size_bytes)),
    ("PRIMARY", lambda snapshot: units.format_size(snapshot.primary_bytes)),
    ("ARCHIVED", lambda snapshot: units.format_size(snapshot.archive.stored_bytes)),
    ("CAPTURED", lambda snapshot: output.moment(snapshot.capture_time)),
    ("RECOVERED", lambda snapshot: "yes" if snapshot.recovered else ""),
]
WITH_ENVIRONMENT: output.Column = ("ENVIRONMENT", lambda resource: resource.name.split("/")[1])


@click.group(cls=session.Noun)
def snapshot() -> None:
    """Snapshots: static copies of volumes' contents."""


for command in (attachments.attach_snapshot, attachments.detach_snapshot):
    snapshot.add_command(command)


@snapshot.command()
@click.argument("volume")
@click.argument("name", required=False, default="")
@click.option("--rapid", is_flag=True, help="Keep it on primary storage, usable at once; it is archived later.")
@click.option("--retention", type=parameters.DURATION, help="How long a rapid one stays on primary storage.")
@click.option("--display-name", default="", help="Free text; the id if left out.")
@click.option("--label", "labels", type=parameters.LABEL, multiple=True, help="May be given several times.")
@transfers.wait_option
@session.pass_session
def create(
    run: session.Session,
    volume: str,
    name: str,
    rapid: bool,
    retention: datetime.timedelta | None,
    display_name: str,
    labels: tuple[tuple[str, str], ...],
    wait: bool,
) -> None:
    """Take a snapshot of a VOLUME. Without a NAME one is generated."""
    source = names.full("volumes", volume, run.environment)
    parent, snapshot_id = names.split("snapshots", name, run.environment or source.split("/")[1])
    wanted = api.Snapshot(source_volume=source, display_name=display_name, labels=dict(labels))
    if retention is not None:
        wanted.retention_duration.FromTimedelta(retention)
    request = api.CreateSnapshotRequest(parent=parent, snapshot_id=snapshot_id, snapshot=wanted, rapid=rapid)
    answer = run.client.snapshots.CreateSnapshot(request)
    # What a rapid one waits for is its archiving, a day away.
    _finish(run, answer.snapshot, "" if rapid else answer.operation, wait=wait)


@snapshot.command("list")
@click.option("--volume", default="", help="Those of one volume.")
@listing.options
@session.pass_session
def list_(run: session.Session, volume: str, filter_: str, order_by: str, limit: int | None) -> None:
    """List the snapshots of an environment, or of all."""
    parent = names.parent(run.environment)
    if volume:
        parent, volume_id = names.split("volumes", volume, run.environment)
        term = f'volume = "{volume_id}"'
        filter_ = f"{filter_} AND {term}" if filter_ else term
    found = listing.each(
        run.client.snapshots.ListSnapshots,
        api.ListSnapshotsRequest(parent=parent),
        lambda page: page.snapshots,
        filter_=filter_,
        order_by=order_by,
        limit=limit,
    )
    output.resources(run, found, COLUMNS if run.environment else [WITH_ENVIRONMENT, *COLUMNS])


@snapshot.command()
@click.argument("name")
@session.pass_session
def show(run: session.Session, name: str) -> None:
    """Show a snapshot."""
    found = _get(run, names.full("snapshots", name, run.environment))
    if run.as_json:
        output.resource(run, found)
        return
    # The ranges that are lost are read best in one line.
    lost = ", ".join(f"{lost.offset}+{lost.length}" for lost in found.health.damaged_ranges)
    del found.health.damaged_ranges[:]
    rows = list(output.details(found))
    if lost:
        rows.append(["health.damaged_ranges", lost])
    if found.archive.changed_bytes:
        rows.append(["archive.amplification", output.ratio(found.archive.stored_bytes, found.archive.changed_bytes)])
    output.table(rows)


@snapshot.command()
@click.argument("name")
@click.option("--display-name", help="Free text.")
@click.option("--label", "labels", type=parameters.LABEL, multiple=True, help="Set a label.")
@click.option("--remove-label", "removed", metavar="KEY", multiple=True, help="Take a label away.")
@click.option("--retention", type=parameters.DURATION, help="How long it stays rapid, counted from its capture.")
@session.pass_session
def update(
    run: session.Session,
    name: str,
    display_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    retention: datetime.timedelta | None,
) -> None:
    """Change what is said about a snapshot. What isn't named stays."""
    present = _get(run, names.full("snapshots", name, run.environment))
    request = api.UpdateSnapshotRequest(snapshot=api.Snapshot(name=present.name, etag=present.etag))
    if display_name is not None:
        request.snapshot.display_name = display_name
        request.update_mask.paths.append("display_name")
    if labels or removed:
        request.snapshot.labels.update(parameters.change_labels(dict(present.labels), labels, removed))
        request.update_mask.paths.append("labels")
    if retention is not None:
        request.snapshot.retention_duration.FromTimedelta(retention)
        request.update_mask.paths.append("retention_duration")
    if not request.update_mask.paths:
        raise click.UsageError("say what to change")
    output.resource(run, run.client.snapshots.UpdateSnapshot(request).snapshot)


@snapshot.command()
@click.argument("name")
@click.option("--if-exists", is_flag=True, help="Succeed if it isn't there.")
@questions.yes_option
@transfers.wait_option
@session.pass_session
def delete(run: session.Session, name: str, if_exists: bool, yes: bool, wait: bool) -> None:
    """Delete a snapshot. Volumes made from it stay."""
    full = names.full("snapshots", name, run.environment)
    questions.confirm(f"Delete {full}?", yes=yes)
    answer = run.client.snapshots.DeleteSnapshot(api.DeleteSnapshotRequest(name=full, allow_missing=if_exists))
    if wait:
        progress.wait(run, answer.operation, "deleting")
    output.note(f"{full} is {'deleted' if wait else 'being deleted'}")


@snapshot.command()
@click.argument("name")
@transfers.wait_option
@session.pass_session
def archive(run: session.Session, name: str, wait: bool) -> None:
    """Archive a rapid snapshot now."""
    full = names.full("snapshots", name, run.environment)
    answer = run.client.snapshots.ArchiveSnapshot(api.ArchiveSnapshotRequest(name=full))
    _finish(run, answer.snapshot, answer.operation, wait=wait)


@snapshot.command()
@click.argument("name")
@transfers.wait_option
@session.pass_session
def verify(run: session.Session, name: str, wait: bool) -> None:
    """Read and check all that an archived snapshot consists of. It fails if something is damaged."""
    full = names.full("snapshots", name, run.environment)
    answer = run.client.snapshots.VerifySnapshot(api.VerifySnapshotRequest(name=full))
    if not wait:
        output.note(f"{answer.operation} goes on")
        return
    progress.wait(run, answer.operation, "checking")
    output.note(f"{full} is whole")


@snapshot.command()
@click.argument("name")
@click.option("--archived", is_flag=True, help="Until it is in the archive, rather than until it can be used.")
@click.option("--timeout", type=parameters.DURATION, help="Give up after so long.")
@session.pass_session
def wait(run: session.Session, name: str, archived: bool, timeout: datetime.timedelta | None) -> None:
    """Wait until a snapshot can be used, or is archived."""
    full = names.full("snapshots", name, run.environment)
    _get(run, full)
    with progress.Progress("waiting") as bar:
        found = waiting.wait_for_snapshot(
            run.client,
            full,
            archived=archived,
            on_progress=bar.follow_archiving,
            timeout_s=None if timeout is None else timeout.total_seconds(),
        )
    output.resource(run, found)


def _finish(run: session.Session, present: api.Snapshot, operation: str, *, wait: bool) -> None:
    """Wait for the archiving if asked to, and show the snapshot as it is then."""
    if wait and operation:
        progress.wait(run, operation, "archiving")
        present = _get(run, present.name)
    elif operation:
        output.note(f"{operation} goes on")
    output.resource(run, present)


def _get(run: session.Session, name: str) -> api.Snapshot:
    return run.client.snapshots.GetSnapshot(api.GetSnapshotRequest(name=name)).snapshot
