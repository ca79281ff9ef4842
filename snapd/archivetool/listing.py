"""`snapd-storage archive list`: hosts, environments and snapshots, as the manifests describe them."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import click

from snapd import errors, units
from snapd.archivetool import opening
from snapd.service import core


@click.command("list")
@opening.options
@click.option("--host", default="", help="What one host has archived; all hosts if left out.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table")
def list_archive(
    config_path: pathlib.Path | None, folder: pathlib.Path | None, key_file: pathlib.Path | None, host: str, output: str
) -> None:
    """List what is archived, without a daemon.

    Without the keys of an encrypted archive only uids are known.
    """
    with opening.opened(config_path, folder, key_file) as archive:
        hosts = [host] if host else archive.hosts()
        rows = [row for name in hosts for row in _rows(archive, name)]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        size = units.format_size(row["size_bytes"]) if "size_bytes" in row else "?"
        named = f"{row.get('environment_id', '?')}/{row.get('snapshot_id', '?')}"
        if row["environment_uid"] == core.CATALOG_AREA:
            named = "(the host's catalog)"
            said = f"revision {row.get('revision', '?')}, {size}, {row.get('created', '?')}"
        else:
            said = f"of {row.get('volume_id', '?')}, {size}, {row.get('captured', '?')}"
        said = row.get("problem", said)
        click.echo(f"{row['host']}/{row['environment_uid']}/{row['snapshot_uid']}  {named}  {said}")


def _rows(archive: opening.Opened, host: str) -> Iterator[dict[str, Any]]:
    repository = archive.of(host)
    for environment_uid in repository.environments():
        for snapshot_uid in repository.snapshots(environment_uid):
            row: dict[str, Any] = {
                "host": host,
                "environment_uid": environment_uid,
                "snapshot_uid": snapshot_uid,
            }
            try:
                found = repository.manifest(environment_uid, snapshot_uid)
                row |= dict(found.metadata)
                row |= {"size_bytes": found.size_bytes, "stored_bytes": found.statistics.bytes_stored}
            except errors.SnapdError as error:
                row["problem"] = str(error)
            yield row
