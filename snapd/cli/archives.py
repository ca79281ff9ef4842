"""snapvol archive: what lies in the archive, whoever put it there."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from snapd import units
from snapd.cli import names, output, progress, session, transfers
from snapd.client import pages
from snapd.v1 import archive_service_pb2 as api
from snapd.v1 import system_service_pb2 as system_api

Result = TypeVar("Result", system_api.ScrubResult, system_api.CollectResult)

HOST_COLUMNS: list[output.Column] = [
    ("HOST", lambda host: host.name.split("/")[1]),
    ("OWN", lambda host: "yes" if host.own else "no"),
    ("SEEN", lambda host: output.moment(host.last_seen_time) if host.HasField("last_seen_time") else "ended"),
]
COLUMNS: list[output.Column] = [
    ("ENVIRONMENT", lambda found: found.environment_id),
    ("SNAPSHOT", lambda found: found.snapshot_id),
    ("VOLUME", lambda found: found.volume_id),
    ("SIZE", lambda found: units.format_size(found.size_bytes)),
    ("STORED", lambda found: units.format_size(found.stored_bytes)),
    ("CAPTURED", lambda found: output.moment(found.capture_time) if found.HasField("capture_time") else ""),
    ("NAME", lambda found: found.name),
    ("PROBLEM", lambda found: found.problem),
]


SCRUB_COLUMNS: list[output.Column] = [
    ("READ", lambda found: units.format_size(found.checked_bytes)),
    ("OBJECTS", lambda found: str(found.pack_count)),
    ("DAMAGED", lambda found: str(found.damaged_pack_count)),
    ("HITS", lambda found: ", ".join(found.damaged_snapshots)),
]
COLLECT_COLUMNS: list[output.Column] = [
    ("FREED", lambda found: units.format_size(found.freed_bytes)),
    ("DELETED", lambda found: str(found.deleted_pack_count)),
    ("EMPTIED", lambda found: str(found.moved_pack_count)),
    ("MORE", lambda found: "later" if found.postponed else ""),
]


@click.group(cls=session.Noun)
def archive() -> None:
    """The archive: the snapshots of every host that shares it, the lost ones too."""


@archive.command()
@session.pass_session
def hosts(run: session.Session) -> None:
    """List the hosts that have a part of the archive."""
    request = api.ListArchiveHostsRequest()
    found = pages.each(run.client.archives.ListArchiveHosts, request, lambda page: page.archive_hosts)
    output.resources(run, found, HOST_COLUMNS)


@archive.command("list")
@click.argument("host")
@session.pass_session
def list_(run: session.Session, host: str) -> None:
    """List the snapshots that a HOST has archived. `volume clone NAME` makes a volume from one."""
    parent = host if host.startswith("hosts/") else f"hosts/{host}"
    request = api.ListArchivedSnapshotsRequest(parent=parent)
    found = pages.each(run.client.archives.ListArchivedSnapshots, request, lambda page: page.archived_snapshots)
    output.resources(run, found, COLUMNS)


@archive.command()
@transfers.wait_option
@session.pass_session
def scrub(run: session.Session, wait: bool) -> None:
    """Read and check all that the environment, or every one if none is named, has in the archive.

    The exit status is 1 if something is damaged.
    """
    request = system_api.ScrubRequest(parent=names.parent(run.environment))
    operations = run.client.system.Scrub(request).operations
    found = _results(run, operations, system_api.ScrubResult, wait=wait, title="scrubbing")
    output.resources(run, found, SCRUB_COLUMNS)
    if any(one.damaged_pack_count for one in found):
        click.get_current_context().exit(1)


@archive.command()
@transfers.wait_option
@session.pass_session
def collect(run: session.Session, wait: bool) -> None:
    """Free what nothing needs any more of what the environment, or every one if none is named, has in the archive."""
    request = system_api.CollectRequest(parent=names.parent(run.environment))
    operations = run.client.system.Collect(request).operations
    found = _results(run, operations, system_api.CollectResult, wait=wait, title="collecting")
    output.resources(run, found, COLLECT_COLUMNS)


def _results(
    run: session.Session, operations: Sequence[str], kind: Callable[[], Result], *, wait: bool, title: str
) -> list[Result]:
    """Return what operations answer with, one after the other; nothing if they aren't waited for."""
    found: list[Result] = []
    for operation in operations:
        if not wait:
            output.note(f"{operation} goes on")
            continue
        ended = progress.wait(run, operation, title)
        if ended is not None:
            result = kind()
            ended.response.Unpack(result)
            found.append(result)
    return found
