"""snapvol environment: the boundaries between tenants."""

import datetime
from collections.abc import Iterator

import click

from snapd.cli import listing, names, output, parameters, questions, session
from snapd.v1 import environment_service_pb2 as api


def _retention(environment: api.Environment) -> str:
    if not environment.HasField("retention_duration"):
        return ""
    return parameters.format_duration(environment.retention_duration.ToTimedelta())


COLUMNS: list[output.Column] = [
    ("ENVIRONMENT", lambda environment: names.short(environment.name)),
    ("DISPLAY NAME", lambda environment: environment.display_name),
    ("RETENTION", _retention),
    ("LABELS", lambda environment: output.labels(environment.labels)),
    ("CREATED", lambda environment: output.moment(environment.create_time)),
]


@click.group(cls=session.Noun)
def environment() -> None:
    """Environments: the boundaries between tenants."""


@environment.command()
@click.argument("identifier", metavar="ID")
@click.option("--display-name", default="", help="Free text; the id if left out.")
@click.option("--label", "labels", type=parameters.LABEL, multiple=True, help="May be given several times.")
@click.option("--retention", type=parameters.DURATION, help="How long rapid snapshots stay on primary storage.")
@session.pass_session
def create(
    run: session.Session,
    identifier: str,
    display_name: str,
    labels: tuple[tuple[str, str], ...],
    retention: datetime.timedelta | None,
) -> None:
    """Make an environment."""
    wanted = api.Environment(display_name=display_name, labels=dict(labels))
    if retention is not None:
        wanted.retention_duration.FromTimedelta(retention)
    environment_id = names.short(names.environment(identifier))
    request = api.CreateEnvironmentRequest(environment_id=environment_id, environment=wanted)
    output.resource(run, run.client.environments.CreateEnvironment(request).environment)


@environment.command("list")
@listing.options
@session.pass_session
def list_(run: session.Session, filter_: str, order_by: str, limit: int | None) -> None:
    """List the environments that one may see."""
    found = listing.each(
        run.client.environments.ListEnvironments,
        api.ListEnvironmentsRequest(),
        lambda page: page.environments,
        filter_=filter_,
        order_by=order_by,
        limit=limit,
    )
    output.resources(run, found, COLUMNS)


@environment.command()
@click.argument("name")
@session.pass_session
def show(run: session.Session, name: str) -> None:
    """Show an environment. The table has what it takes too; as JSON that is `usage`."""
    found = _get(run, name)
    if run.as_json:
        output.resource(run, found)
    else:
        output.table([*output.details(found), *_takes(_usage(run, found.name), without="name")])


@environment.command()
@click.argument("name", required=False, default="")
@session.pass_session
def usage(run: session.Session, name: str) -> None:
    """Show what an environment takes, on primary storage and in the archive."""
    if not (name or run.environment):
        raise click.UsageError("say which environment")
    found = _usage(run, names.environment(name or run.environment))
    if run.as_json:
        output.resource(run, found)
    else:
        output.table(_takes(found))


def _usage(run: session.Session, name: str) -> api.EnvironmentUsage:
    return run.client.environments.GetEnvironmentUsage(api.GetEnvironmentUsageRequest(name=name)).usage


def _takes(found: api.EnvironmentUsage, without: str = "") -> Iterator[list[str]]:
    """Yield the figures, and what follows from those of the archive."""
    yield from (row for row in output.details(found) if row[0] != without)
    if found.archive.stored_bytes:
        yield ["archive.ratio", output.ratio(found.archive.logical_bytes, found.archive.stored_bytes)]
    if found.archive.changed_bytes:
        part = found.archive.deduplicated_bytes * 100 / found.archive.changed_bytes
        yield ["archive.deduplicated", f"{part:.0f} %"]


@environment.command()
@click.argument("name")
@click.option("--display-name", help="Free text.")
@click.option("--label", "labels", type=parameters.LABEL, multiple=True, help="Set a label.")
@click.option("--remove-label", "removed", metavar="KEY", multiple=True, help="Take a label away.")
@click.option("--retention", type=parameters.DURATION, help="For rapid snapshots that are taken from now on.")
@session.pass_session
def update(
    run: session.Session,
    name: str,
    display_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    retention: datetime.timedelta | None,
) -> None:
    """Change an environment. What isn't named stays."""
    present = _get(run, name)
    request = api.UpdateEnvironmentRequest(environment=api.Environment(name=present.name, etag=present.etag))
    if display_name is not None:
        request.environment.display_name = display_name
        request.update_mask.paths.append("display_name")
    if labels or removed:
        request.environment.labels.update(parameters.change_labels(dict(present.labels), labels, removed))
        request.update_mask.paths.append("labels")
    if retention is not None:
        request.environment.retention_duration.FromTimedelta(retention)
        request.update_mask.paths.append("retention_duration")
    if not request.update_mask.paths:
        raise click.UsageError("say what to change")
    output.resource(run, run.client.environments.UpdateEnvironment(request).environment)


@environment.command()
@click.argument("name")
@click.option("--if-exists", is_flag=True, help="Succeed if it isn't there.")
@questions.yes_option
@session.pass_session
def delete(run: session.Session, name: str, if_exists: bool, yes: bool) -> None:
    """Delete an environment that holds nothing."""
    full = names.environment(name)
    questions.confirm(f"Delete {full}?", yes=yes)
    run.client.environments.DeleteEnvironment(api.DeleteEnvironmentRequest(name=full, allow_missing=if_exists))
    output.note(f"{full} is deleted")


def _get(run: session.Session, name: str) -> api.Environment:
    request = api.GetEnvironmentRequest(name=names.environment(name))
    return run.client.environments.GetEnvironment(request).environment
