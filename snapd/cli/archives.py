"""snapvol archive: what lies in the archive, whoever put it there."""

import click

from snapd import units
from snapd.cli import output, session
from snapd.client import pages
from snapd.v1 import archive_service_pb2 as api

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
