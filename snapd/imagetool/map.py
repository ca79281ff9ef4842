"""`image map`: what the ranges of a disk are, as a picture for people or as qemu-img's JSON for programs."""

import contextlib
import pathlib
import sys
from collections.abc import Sequence

import click

from snapd import units
from snapd.imagetool import command, mapjson, opening, picture, png, raster, status
from snapd.qcow2.reading.image import Image


@click.command("map", cls=command.ImageCommand)
@command.common_options
@click.option(
    "--follow", is_flag=True, help="Go on with the backing file that the last image names, in its own folder."
)
@click.option("--snapshot", metavar="NAME", help="Show FILE as this internal snapshot of it does; an id will do.")
@click.option("--png", "png_path", type=command.image_file, metavar="PICTURE", help="Draw into this file too.")
@click.argument("file", type=command.image_file)
@click.argument("below", type=command.image_file, nargs=-1)
def map_image(
    file: pathlib.Path,
    below: Sequence[pathlib.Path],
    output: str,
    format_name: str,
    force_share: bool,
    follow: bool,
    snapshot: str | None,
    png_path: pathlib.Path | None,
) -> None:
    """Show which ranges of a disk hold data, read as zeros, or are absent.

    That is what FILE has by itself, unless the files BELOW are given on which it stands, from the top downwards. Names
    in headers are followed only with --follow: only plain names in the folder of the image that has them.
    """
    del format_name
    with contextlib.ExitStack() as stack:
        images = stack.enter_context(opening.chain([file, *below], follow=follow, locked=not force_share))
        if snapshot is not None:
            images[0] = stack.enter_context(images[0].of_snapshot(snapshot))
        if output == "json":
            mapjson.write(status.ranges(images), sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            _show(images)
        if png_path is not None:
            cells = units.divide_up(images[0].size_bytes, status.granule(images))
            png.write(png_path, _title(images), _raster(images, *png.grid(cells)))


def _show(images: Sequence[Image]) -> None:
    terminal = picture.console()
    columns, rows = picture.grid(terminal)
    picture.show(terminal, _title(images), _raster(images, columns, rows))
    last = images[-1]
    if last.header.backing_name is not None:
        name = command.printable(last.header.backing_name)
        click.echo(f"{command.printable(str(last.path))} stands on {name}, which is not shown.", err=True)


def _raster(images: Sequence[Image], columns: int, rows: int) -> raster.Raster:
    return raster.draw(status.ranges(images), images[0].size_bytes, columns, rows, status.granule(images))


def _title(images: Sequence[Image]) -> str:
    top = images[0]
    standing = f" on {len(images) - 1} more" if len(images) > 1 else ""
    return f"{top.path.name}{standing}   {units.format_size(top.size_bytes)}"
