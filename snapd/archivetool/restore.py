"""`snapd-storage archive restore`: a snapshot's disk out of the archive into a file."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator

import click

from snapd import errors, fsops, model, units
from snapd.archive import manifest as manifests
from snapd.archivetool import opening
from snapd.copier import control as controls
from snapd.copier import restore as restoring
from snapd.qcow2.writing import create, writer

_LOST = 2


@click.command()
@opening.options
@click.argument("snapshot", metavar="HOST/ENVIRONMENT/SNAPSHOT")
@click.argument("path", type=click.Path(path_type=pathlib.Path, dir_okay=False))
@click.option("--format", "format_", type=click.Choice(["raw", "qcow2"]), default="raw", show_default=True)
@click.option(
    "--salvage", is_flag=True, help="Leave out what is damaged, as zeros, and say which ranges that is (raw)."
)
def restore(
    config_path: pathlib.Path | None,
    folder: pathlib.Path | None,
    key_file: pathlib.Path | None,
    snapshot: str,
    path: pathlib.Path,
    format_: str,
    salvage: bool,
) -> None:
    """Write a snapshot's disk into a new file, every byte checked, without a daemon.

    Exit status: 0 if all of it was restored, 2 if --salvage left something out, 1 if it failed: then there is no file.
    """
    if salvage and format_ != "raw":
        raise click.UsageError("--salvage writes raw images only")
    place = opening.place(snapshot)
    lost: list[tuple[int, int]] = []
    with (
        opening.opened(config_path, folder, key_file) as archive,
        archive.reading(place.host, place.environment_uid),
        _fresh(path),
    ):
        found = archive.of(place.host).manifest(place.environment_uid, place.snapshot_uid)
        if format_ == "qcow2":
            create.create(path, size_bytes=found.size_bytes)
            with writer.Writer.open(path) as target:
                restoring.restore(found, target, os.cpu_count() or 1, controls.Control())
        else:
            lost = _write_raw(found, path, salvage=salvage)
    for offset, length in lost:
        click.echo(f"lost: {length} bytes at {offset}", err=True)
    click.echo(f"{path}: {units.format_size(found.size_bytes)}, {_name(place)}")
    if lost:
        sys.exit(_LOST)


def _name(place: model.ArchivePlace) -> str:
    return place.path


@contextlib.contextmanager
def _fresh(path: pathlib.Path) -> Iterator[None]:
    """Make sure that a path is free, and that nothing is left there if the block fails."""
    if path.exists() or path.is_symlink():
        raise click.ClickException(f"{path} is there already")
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            fsops.unlink(path)
        raise


def _write_raw(found: manifests.Manifest, path: pathlib.Path, *, salvage: bool) -> list[tuple[int, int]]:
    """Write a sparse raw image, durably, and return the ranges that were left out."""
    lost: list[tuple[int, int]] = []
    with fsops.translated(path):
        fd = fsops.create(path)
        try:
            fsops.truncate(fd, found.size_bytes)
            for low, high in found.held(0, found.blocks):
                for number in range(low, high):
                    offset = number * found.block_size
                    try:
                        data = found.read(number)
                    except errors.Corrupt:
                        if not salvage:
                            raise
                        lost.append((offset, found.block_length(number)))
                        continue
                    if data.count(0) != len(data):
                        fsops.pwrite(fd, data, offset)
            fsops.fsync(fd)
        finally:
            os.close(fd)
    fsops.sync_directory(path.absolute().parent)
    return lost
