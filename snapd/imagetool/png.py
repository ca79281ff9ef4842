"""Draws the allocation of a disk into a PNG file. The one place that knows Pillow."""

import io
import math
import pathlib

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from snapd import fsops, units
from snapd.imagetool import legend
from snapd.imagetool.raster import Raster

_WIDTH = 1024
"""Pixels of the widest grid."""
_COLUMNS_MIN, _COLUMNS_MAX = 16, 256
_ROWS_MAX = _COLUMNS_MAX // 2
_GAP_FROM = 8
"""Cells of so many pixels are drawn apart from each other, by one pixel."""
_MARGIN = 28
_AXIS = 84
"""Pixels on the left, for offsets."""
_HEAD = 64
_FOOT = 76
_BACKGROUND = (24, 27, 33)
_TEXT = (226, 230, 236)
_FAINT = (140, 147, 158)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def grid(cells: int) -> tuple[int, int]:
    """Return the columns and the most rows of a raster for so many cells: about twice as wide as it is high."""
    columns = min(max(math.isqrt(2 * cells), _COLUMNS_MIN), _COLUMNS_MAX)
    return columns, min(units.divide_up(cells, columns), _ROWS_MAX)


def write(path: pathlib.Path, title: str, raster: Raster) -> None:
    """Write a picture with its legend, whole or not at all. Raises errors.StorageFull, errors.StorageFailed."""
    canvas = _canvas(title, raster)
    data = io.BytesIO()
    canvas.save(data, "PNG", optimize=True)
    with fsops.translated(path):
        fsops.write_file(path, data.getvalue(), 0o644)


def _canvas(title: str, raster: Raster) -> PIL.Image.Image:
    cell = _WIDTH // raster.columns
    width, height = raster.columns * cell, raster.rows * cell
    canvas = PIL.Image.new("RGB", (_AXIS + width + _MARGIN, _HEAD + height + _FOOT), _BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(18)
    pen.text((_AXIS, _HEAD // 2), _shortened(title, width, pen, font), _TEXT, font, anchor="lm")
    canvas.paste(_cells(raster, cell), (_AXIS, _HEAD))
    _axis(pen, raster, cell)
    _legend(pen, raster, _HEAD + height + _FOOT // 2)
    return canvas


def _shortened(title: str, width: int, pen: ImageDraw.ImageDraw, font: Font) -> str:
    """Return a title with its middle left out if it is wider than the grid; name and size stay recognisable."""
    kept = len(title)
    shown = title
    while kept > 2 and pen.textlength(shown, font) > width:
        kept -= 1
        shown = f"{title[: kept // 2]}…{title[-((kept + 1) // 2) :]}"
    return shown


def _cells(raster: Raster, cell: int) -> PIL.Image.Image:
    cells = np.empty((raster.rows * raster.columns, 3), np.uint8)
    # The end of the last line is beyond the disk.
    cells[:] = _BACKGROUND
    cells[: raster.cells] = legend.colours(raster)
    small = PIL.Image.fromarray(cells.reshape(raster.rows, raster.columns, 3))
    large = small.resize((raster.columns * cell, raster.rows * cell), PIL.Image.Resampling.NEAREST)
    if cell >= _GAP_FROM:
        pen = ImageDraw.Draw(large)
        for x in range(cell - 1, large.width, cell):
            pen.line((x, 0, x, large.height), _BACKGROUND)
        for y in range(cell - 1, large.height, cell):
            pen.line((0, y, large.width, y), _BACKGROUND)
    return large


def _axis(pen: ImageDraw.ImageDraw, raster: Raster, cell: int) -> None:
    font = ImageFont.load_default(13)
    marks = max(1, min(8, raster.rows, raster.rows * cell // 24))
    for mark in range(marks):
        row = raster.rows * mark // marks
        y = _HEAD + row * cell
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
