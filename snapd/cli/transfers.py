"""snapvol volume import, export and write: bytes between local files and the daemon, with live progress."""

import pathlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from snapd import units
from snapd.cli import names, output, parameters, progress, questions, session
from snapd.client import connection, download, upload
from snapd.v1 import system_service_pb2
from snapd.v1 import volume_service_pb2 as api

Function = TypeVar("Function", bound=Callable[..., Any])

_FILE: Final = click.Path(path_type=pathlib.Path, dir_okay=False)
_EXISTING_FILE: Final = click.Path(path_type=pathlib.Path, dir_okay=False, exists=True)


def properties(function: Function) -> Function:
    """Add the options that say what a new volume is to a command, which hands them to `wanted_volume`."""
    decorators = (
        click.option("--role", type=click.Choice(["root", "data"]), default="data", show_default=True),
        click.option("--instance", default="", help="The virtual machine whose disk it is."),
        click.option("--display-name", default="", help="Free text; the id if left out."),
        click.option("--label", "labels", type=parameters.LABEL, multiple=True, help="May be given several times."),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def wait_option(function: Function) -> Function:
    """Add --wait/--no-wait to a command."""
    text = "Wait until the work is done (default), or return as soon as it is accepted."
    return click.option("--wait/--no-wait", default=True, help=text)(function)


def wanted_volume(role: str, instance: str, display_name: str, labels: tuple[tuple[str, str], ...]) -> api.Volume:
    """Return the volume that the options of `properties` describe."""
    return api.Volume(
        role=api.Volume.ROLE_ROOT if role == "root" else api.Volume.ROLE_DATA,
        instance=instance,
        display_name=display_name,
        labels=dict(labels),
    )


@click.command("import", cls=session.Command)
@click.argument("file", type=_EXISTING_FILE)
@click.argument("name", required=False, default="")
@click.option(
    *("--format", "-f", "format_"), type=click.Choice(["raw", "qcow2"]), required=True, help="It is never guessed."
)
@click.option("--request-id", default="", help="Continue the upload that was begun under this id.")
@properties
@wait_option
@session.pass_session
def import_(
    run: session.Session, /, file: pathlib.Path, name: str, format_: str, request_id: str, wait: bool, **described: Any
) -> None:
    """Make a volume from an image FILE. Without a NAME one is generated."""
    parent, volume_id = names.split("volumes", name, run.environment)
    request_id = request_id or connection.new_request_id()
    start = api.ImportVolumeRequest.Start(
        parent=parent,
        volume_id=volume_id,
        volume=wanted_volume(**described),
        format=api.IMAGE_FORMAT_QCOW2 if format_ == "qcow2" else api.IMAGE_FORMAT_RAW,
        request_id=request_id,
    )
    _fail_early(run)
    with progress.Progress(f"importing {file.name}") as bar:
        try:
            answer = upload.import_volume(run.client, file, start, on_progress=bar.update)
        except BaseException:
            if bar.done:
                output.note(f"What arrived is kept for a while: repeat it with --request-id {request_id} to continue.")
            raise
    found = answer.volume
    if wait and answer.operation:
        progress.wait(run, answer.operation, "completing")
        found = run.client.volumes.GetVolume(api.GetVolumeRequest(name=found.name)).volume
    output.resource(run, found)


@click.command(cls=session.Command)
@click.argument("source")
@click.argument("file", type=_FILE)
@click.option("--volume", "of_volume", is_flag=True, help="SOURCE is a detached volume rather than a snapshot.")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@session.pass_session
def export(run: session.Session, source: str, file: pathlib.Path, of_volume: bool, force: bool) -> None:
    """Write the contents of a snapshot into a raw, sparse FILE.

    SOURCE is a snapshot's id; with --volume, or as a full name, a detached volume's.
    """
    collection = "volumes" if of_volume or "/volumes/" in source else "snapshots"
    full = names.full(collection, source, run.environment)
    _fail_early(run)
    with progress.Progress(f"exporting {names.short(full)}") as bar:
        found = download.export_volume(run.client, full, file, overwrite=force, on_progress=bar.update)
    sizes = f"{units.format_size(found.size_bytes)}, {units.format_size(found.data_bytes)} of them data"
    output.note(f"{full} is in {file}: {sizes}")


@click.command(cls=session.Command)
@click.argument("name")
@click.argument("file", type=_EXISTING_FILE)
@questions.yes_option
@session.pass_session
def write(run: session.Session, name: str, file: pathlib.Path, yes: bool) -> None:
    """Write a raw FILE over the beginning of a detached volume."""
    full = names.full("volumes", name, run.environment)
    questions.confirm(f"Write {file} over {full}?", yes=yes)
    _fail_early(run)
    with progress.Progress(f"writing {file.name}") as bar:
        upload.write_blocks(run.client, file, full, on_progress=bar.update)
    output.note(f"{file} is written to {full}")


def _fail_early(run: session.Session) -> None:
    """Call the daemon once: a transfer waits for one that went away, which is not for one that never was there."""
    run.client.system.GetServerInfo(system_service_pb2.GetServerInfoRequest())
