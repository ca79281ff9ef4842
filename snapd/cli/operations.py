"""snapvol operation: work that goes on in the daemon."""

import datetime
from typing import Any

import click
from google.longrunning import operations_pb2

from snapd import units
from snapd.cli import names, output, parameters, progress, session
from snapd.client import pages, waiting


def _state(found: Any) -> str:
    if not found.done:
        return waiting.metadata(found).stage or "running"
    return "failed" if found.HasField("error") else "done"


COLUMNS: list[output.Column] = [
    ("OPERATION", lambda operation: names.short(operation.name)),
    ("METHOD", lambda operation: names.short(waiting.metadata(operation).method)),
    ("TARGET", lambda operation: waiting.metadata(operation).target),
    ("STATE", _state),
    ("DONE", lambda operation: units.format_size(waiting.metadata(operation).bytes_done)),
    ("TOTAL", lambda operation: units.format_size(waiting.metadata(operation).bytes_total)),
    ("STARTED", lambda operation: output.moment(waiting.metadata(operation).create_time)),
]


@click.group(cls=session.Noun)
def operation() -> None:
    """Operations: work that goes on in the daemon."""


@operation.command("list")
@click.option("--filter", "filter_", default="", help="Such as 'done = false'.")
@session.pass_session
def list_(run: session.Session, filter_: str) -> None:
    """List the operations of an environment, or of all."""
    request = operations_pb2.ListOperationsRequest(name=names.parent(run.environment), filter=filter_)
    found = pages.each(run.client.operations.ListOperations, request, lambda page: page.operations)
    output.resources(run, found, COLUMNS)


@operation.command()
@click.argument("name")
@session.pass_session
def show(run: session.Session, name: str) -> None:
    """Show an operation."""
    _show(run, _get(run, name))


@operation.command()
@click.argument("name")
@click.option("--timeout", type=parameters.DURATION, help="Give up after so long; the work goes on.")
@session.pass_session
def wait(run: session.Session, name: str, timeout: datetime.timedelta | None) -> None:
    """Wait until an operation is done."""
    found = _get(run, name)
    with progress.interruptible(found.name), progress.Progress("waiting") as bar:
        found = waiting.wait(
            run.client,
            found.name,
            on_progress=bar.follow,
            timeout_s=None if timeout is None else timeout.total_seconds(),
        )
    _show(run, found)


@operation.command()
@click.argument("name")
@session.pass_session
def cancel(run: session.Session, name: str) -> None:
    """Ask for an operation to be undone. Once its work is done, that changes nothing."""
    full = names.full("operations", name, run.environment)
    run.client.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=full))
    output.note(f"{full} is asked to stop")


def _get(run: session.Session, name: str) -> Any:
    full = names.full("operations", name, run.environment)
    return run.client.operations.GetOperation(operations_pb2.GetOperationRequest(name=full))


def _show(run: session.Session, found: Any) -> None:
    if run.as_json:
        output.resource(run, found)
    else:
        rows = [["name", found.name], ["state", _state(found)]]
        if found.HasField("error"):
            rows.append(["error", found.error.message])
        output.table(rows + list(output.details(waiting.metadata(found))))
