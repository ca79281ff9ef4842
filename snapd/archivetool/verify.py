"""`snapd-storage archive verify`: every pack read and decoded, and what damage hits, by snapshot and range."""

import datetime
import pathlib
import sys

import click

from snapd import errors
from snapd.archivetool import opening

_DAMAGED = 2


@click.command()
@opening.options
@click.option("--host", default="", help="What one host has archived; all hosts if left out.")
def verify(
    config_path: pathlib.Path | None, folder: pathlib.Path | None, key_file: pathlib.Path | None, host: str
) -> None:
    """Read everything that is archived and check it, without a daemon.

    Exit status: 0 if all is whole, 2 if something is damaged, which is named, 1 if it could not be checked.
    """
    damaged = 0
    with opening.opened(config_path, folder, key_file) as archive:
        for name in [host] if host else archive.hosts():
            for environment_uid in archive.of(name).environments():
                with archive.reading(name, environment_uid):
                    damaged += _verify(archive, name, environment_uid)
    if damaged:
        sys.exit(_DAMAGED)


def _verify(archive: opening.Opened, host: str, environment_uid: str) -> int:
    """Check one environment, say what was found, and return how much of it is damaged."""
    upkeep = archive.of(host).upkeep
    far = datetime.datetime.max.replace(tzinfo=datetime.UTC)
    packs = bad = 0
    for found in upkeep.scrub(environment_uid, far, lambda: None):
        packs += 1
        if found.problem:
            bad += 1
            click.echo(f"{host}/{environment_uid}: pack {found.pack_id.hex()}: {found.problem}", err=True)
    unreadable = 0
    for snapshot_uid in archive.of(host).snapshots(environment_uid):
        try:
            archive.of(host).manifest(environment_uid, snapshot_uid)
        except errors.Corrupt as error:
            unreadable += 1
            click.echo(f"{host}/{environment_uid}/{snapshot_uid}: all of it is lost: {error}", err=True)
    if unreadable:
        # Which packs the others need can't be told then by one look at all manifests.
        return bad + unreadable
    damages = upkeep.damage(environment_uid)
    for damage in damages:
        ranges = ", ".join(f"{offset}+{length}" for offset, length in damage.ranges)
        click.echo(f"{host}/{environment_uid}/{damage.snapshot_uid}: lost: {ranges}", err=True)
    click.echo(f"{host}/{environment_uid}: {packs} packs, {bad} damaged; {len(damages)} snapshots hit")
    return bad + len(damages)
