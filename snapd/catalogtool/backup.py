"""`snapd-storage backup-catalog`: a consistent copy of the catalog in a file, beside a daemon or without one."""

import pathlib

import click

from snapd import errors, fsops, units
from snapd.catalog import copying
from snapd.catalogtool import opening


@click.command("backup-catalog")
@opening.options
@click.argument("path", metavar="FILE", type=click.Path(path_type=pathlib.Path, dir_okay=False))
def backup_catalog(config_path: pathlib.Path | None, state_dir: pathlib.Path | None, path: pathlib.Path) -> None:
    """Write a consistent copy of the catalog into a new file, at any time.

    It is checked before it gets its name, and a file that is there is left alone. `snapd-storage rebuild-catalog` takes
    such a file. The daemon itself keeps copies in the archive.
    """
    try:
        catalog_path = opening.configuration(config_path, state_dir).settings.catalog_path
        revision = _publish(catalog_path, path)
    except errors.SnapdError as error:
        raise click.ClickException(f"{error}. {error.advice}") from error
    click.echo(f"{path}: {units.format_size(path.stat().st_size)}, up to revision {revision}")


def _publish(catalog_path: pathlib.Path, path: pathlib.Path) -> int:
    """Copy the catalog to a path that is free, durably, and return the newest revision in it."""
    if path.exists() or path.is_symlink():
        raise click.ClickException(f"{path} is there already")
    temporary = path.with_name(f".{path.name}.tmp")
    # One that a killed run left.
    copying.discard(temporary)
    try:
        copying.copy(catalog_path, temporary)
        revision = copying.revision(temporary)
        with fsops.translated(path):
            fsops.publish_new(temporary, path)
    finally:
        copying.discard(temporary)
    return revision
