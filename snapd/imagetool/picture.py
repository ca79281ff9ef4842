"""Draws the allocation of a disk in a terminal, or with plain characters where there are no colours."""

import shutil

import rich.console
import rich.style
import rich.text

from snapd import units
from snapd.imagetool import command, legend
from snapd.imagetool.raster import Look, Raster, dominant

ROWS = 16
"""Lines of text that a picture takes at most."""
_CELL_MAX = 4
"""Columns that a cell is wide at most."""
_LABEL = 10
"""Columns before the grid, for the offset at which the line begins."""
_WIDTH_OF_FILES = 80
_GLYPHS = {Look.DATA: "█", Look.COMPRESSED: "▓", Look.ZERO: "░", Look.PREALLOCATED: "▒", Look.UNALLOCATED: "·"}


def console() -> rich.console.Console:
    """Return the console on standard output, as wide as the terminal."""
    terminal = rich.console.Console(highlight=False)
    if not terminal.is_terminal:
        width = shutil.get_terminal_size((_WIDTH_OF_FILES, 24)).columns
        return rich.console.Console(highlight=False, width=width)
    return terminal


def grid(terminal: rich.console.Console) -> tuple[int, int]:
    """Return the columns and the most rows of cells that a raster for this console has."""
    lines = min(ROWS, max(4, terminal.height - 8)) if terminal.is_terminal else ROWS
    columns = max(16, terminal.width - _LABEL - 1)
    return columns, lines * _cells_per_line(terminal)


def show(terminal: rich.console.Console, title: str, raster: Raster) -> None:
    """Print a picture with its legend."""
    terminal.print(rich.text.Text(command.printable(title), style="bold", overflow="fold"))
    draw = _in_colours if _cells_per_line(terminal) == 2 else _in_glyphs
    # Few cells are drawn wide.
    width = max(1, min(_CELL_MAX, raster.columns // raster.cells))
    for label, line in draw(raster, width):
        terminal.print(rich.text.Text(f"{label:>{_LABEL}} ", style="dim") + line, soft_wrap=True)
    coloured = _cells_per_line(terminal) == 2
    for look, text in legend.totals(raster):
        glyph = rich.text.Text("██" if coloured else _GLYPHS[look] * 2, style=_style(look) if coloured else "")
        terminal.print(rich.text.Text(" " * (_LABEL + 1)) + glyph + f" {text}")


def _cells_per_line(terminal: rich.console.Console) -> int:
    """Return 2 where a half block shows two cells in their colours, one above the other; sixteen colours can't."""
    return 2 if terminal.color_system in ("256", "truecolor") and not terminal.no_color else 1


def _in_colours(raster: Raster, width: int) -> list[tuple[str, rich.text.Text]]:
    colours = ["#{:02x}{:02x}{:02x}".format(*each) for each in legend.colours(raster).tolist()]
    lines = []
    for row in range(0, raster.rows, 2):
        first = row * raster.columns
        upper = colours[first : first + raster.columns]
        lower = colours[first + raster.columns : first + 2 * raster.columns]
        line = rich.text.Text()
        for column, colour in enumerate(upper):
            below = f" on {lower[column]}" if column < len(lower) else ""
            line.append("▀" * width, style=f"{colour}{below}")
        lines.append((units.format_size(raster.offset(first)), line))
    return lines


def _in_glyphs(raster: Raster, width: int) -> list[tuple[str, rich.text.Text]]:
    glyphs = "".join(_GLYPHS[look] for look in Look)
    cells = [glyphs[look] * width for look in dominant(raster).tolist()]
    return [
        (units.format_size(raster.offset(first)), rich.text.Text("".join(cells[first : first + raster.columns])))
        for first in range(0, raster.cells, raster.columns)
    ]


def _style(look: Look) -> str:
    return "#{:02x}{:02x}{:02x}".format(*legend.COLOURS[look].astype(int).tolist())
