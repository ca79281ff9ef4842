"""Draws the allocation of a disk into a PNG file. The one place that knows Pillow."""

import io
import pathlib

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from snapd import fsops, units
from snapd.imagetool import legend
from snapd.imagetool.raster import Raster

COLUMNS = 256
ROWS = 128
"""Of cells, at most."""

_CELL = 4
"""Pixels of a cell's side."""
_MARGIN = 28
_AXIS = 84
"""Pixels on the left, for offsets."""
_HEAD = 64
_FOOT = 76
_BACKGROUND = (24, 27, 33)
_TEXT = (226, 230, 236)
_FAINT = (140, 147, 158)


def write(path: pathlib.Path, title: str, raster: Raster) -> None:
    """Write a picture with its legend, whole or not at all. Raises errors.StorageFull, errors.StorageFailed."""
    canvas = _canvas(title, raster)
    data = io.BytesIO()
    canvas.save(data, "PNG", optimize=True)
    with fsops.translated(path):
        fsops.write_file(path, data.getvalue(), 0o644)


def _canvas(title: str, raster: Raster) -> PIL.Image.Image:
    width, height = raster.columns * _CELL, raster.rows * _CELL
    canvas = PIL.Image.new("RGB", (_AXIS + width + _MARGIN, _HEAD + height + _FOOT), _BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    pen.text((_AXIS, _HEAD // 2), title, _TEXT, ImageFont.load_default(18), anchor="lm")
    canvas.paste(_cells(raster), (_AXIS, _HEAD))
    _axis(pen, raster, height)
    _legend(pen, raster, _HEAD + height + _FOOT // 2)
    return canvas


def _cells(raster: Raster) -> PIL.Image.Image:
    cells = np.empty((raster.rows * raster.columns, 3), np.uint8)
    # The end of the last line is beyond the disk.
    cells[:] = _BACKGROUND
    cells[: raster.cells] = legend.colours(raster)
    small = PIL.Image.fromarray(cells.reshape(raster.rows, raster.columns, 3))
    return small.resize((raster.columns * _CELL, raster.rows * _CELL), PIL.Image.Resampling.NEAREST)


def _axis(pen: ImageDraw.ImageDraw, raster: Raster, height: int) -> None:
    font = ImageFont.load_default(13)
    marks = max(1, min(8, height // 24))
    for mark in range(marks):
        row = raster.rows * mark // marks
        y = _HEAD + row * _CELL
        text = units.format_size(raster.offset(row * raster.columns))
        pen.line((_AXIS - 8, y, _AXIS - 3, y), _FAINT)
        pen.text((_AXIS - 12, y), text, _FAINT, font, anchor="rm")


def _legend(pen: ImageDraw.ImageDraw, raster: Raster, y: int) -> None:
    font = ImageFont.load_default(14)
    x = _AXIS
    for look, text in legend.totals(raster):
        red, green, blue = legend.COLOURS[look].astype(int).tolist()
        pen.rounded_rectangle((x, y - 8, x + 16, y + 8), 3, (red, green, blue), _FAINT)
        pen.text((x + 24, y), text, _TEXT, font, anchor="lm")
        x += 24 + int(pen.textlength(text, font)) + 36
