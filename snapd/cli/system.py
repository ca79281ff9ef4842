"""snapvol system: the daemon itself."""

import click

from snapd.cli import output, session
from snapd.v1 import system_service_pb2 as api


@click.group(cls=session.Noun)
def system() -> None:
    """The daemon itself."""


@system.command()
@session.pass_session
def info(run: session.Session) -> None:
    """Show the daemon's version, capabilities and limits."""
    output.resource(run, run.client.system.GetServerInfo(api.GetServerInfoRequest()))


@system.command()
@session.pass_session
def capacity(run: session.Session) -> None:
    """Show how full primary storage and the archive are."""
    output.resource(run, run.client.system.GetCapacity(api.GetCapacityRequest()))
