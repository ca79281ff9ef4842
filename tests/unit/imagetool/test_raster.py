"""The grid of cells beside a count of every byte."""

import pathlib

import numpy as np
import PIL.Image
import rich.console
from hypothesis import given
from hypothesis import strategies as st

from snapd.imagetool import legend, picture, png, raster, status
from snapd.imagetool.raster import Look

FLAGS = {
    status.ZERO: Look.UNALLOCATED,
    status.PRESENT | status.ZERO: Look.ZERO,
    status.PRESENT | status.DATA: Look.DATA,
    status.PRESENT | status.DATA | status.ZERO: Look.PREALLOCATED,
    status.PRESENT | status.DATA | status.COMPRESSED: Look.COMPRESSED,
}


def ranges(pieces: list[tuple[int, int]], start: int = 0) -> status.Ranges:
    """Return ranges in a row from lengths and flags."""
    length = np.array([each for each, _ in pieces], np.int64)
    return status.Ranges(
        start + np.cumsum(length) - length,
        length,
        np.zeros(len(pieces), np.int32),
        np.array([flags for _, flags in pieces], np.uint8),
        np.full(len(pieces), -1, np.int64),
    )


PIECES = st.lists(st.tuples(st.integers(1, 40), st.sampled_from(sorted(FLAGS))), min_size=1, max_size=30)


@given(PIECES, st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), st.integers(0, 30))
def test_cells_have_the_shares_of_their_bytes(
    pieces: list[tuple[int, int]], columns: int, rows: int, granule: int, split: int
) -> None:
    size = sum(length for length, _ in pieces)
    held = [FLAGS[flags] for length, flags in pieces for _ in range(length)]
    head, tail = pieces[:split], pieces[split:]
    found = [ranges(part, sum(length for length, _ in before)) for part, before in ((head, []), (tail, head)) if part]
    drawn = raster.draw(found, size, columns, rows, granule)
    assert drawn.cells <= columns * rows
    assert drawn.totals == tuple(held.count(look) for look in Look)
    assert drawn.ranges == len(pieces)
    edges = [drawn.offset(cell) for cell in range(drawn.cells)] + [size]
    for cell in range(drawn.cells):
        span = held[edges[cell] : edges[cell + 1]]
        assert len(span) > 0
        assert np.allclose(drawn.shares[cell], [span.count(look) / len(span) for look in Look])


def test_disks_beyond_53_bits_are_drawn_exactly() -> None:
    size = (1 << 62) + 512 * 3
    drawn = raster.draw([ranges([(size - 512, status.ZERO), (512, 5)])], size, 100, 30, 65536)
    assert drawn.offset(0) == 0
    assert 0 < size - drawn.offset(drawn.cells - 1) <= size // 2999
    assert drawn.totals[Look.DATA] == 512
    assert raster.dominant(drawn)[-1] == Look.DATA


def test_a_trace_of_data_is_visible_in_a_large_cell() -> None:
    drawn = raster.draw([ranges([(1 << 40, status.ZERO), (512, 5)])], (1 << 40) + 512, 10, 10, 512)
    assert legend.share(512, drawn.size_bytes) == "< 0.1 %"
    empty, trace = legend.colours(drawn)[[0, -1]].astype(int)
    assert np.abs(trace - empty).sum() > 60


def test_cells_have_colours_where_there_is_a_terminal() -> None:
    terminal = rich.console.Console(force_terminal=True, color_system="truecolor", width=60, record=True)
    drawn = raster.draw([ranges([(512, 5), (512, 2)] * 40)], 40 * 1024, *picture.grid(terminal), 512)
    with terminal.capture() as captured:
        picture.show(terminal, "disk\x1b[2J", drawn)
    assert "\x1b[2J" not in captured.get()
    assert "▀" in captured.get()
    assert all(len(line) <= 60 for line in terminal.export_text().splitlines())


def test_cells_have_characters_where_there_are_no_colours() -> None:
    terminal = rich.console.Console(force_terminal=True, color_system="truecolor", no_color=True, width=40)
    drawn = raster.draw([ranges([(1024, 5), (512, 2), (512, 3), (512, 13)])], 2560, *picture.grid(terminal), 512)
    with terminal.capture() as captured:
        picture.show(terminal, "disk", drawn)
    assert "████████····░░░░▓▓▓▓" in captured.get()


def test_the_file_has_the_colours_of_the_cells(tmp_path: pathlib.Path) -> None:
    drawn = raster.draw([ranges([(1024, 5), (1024, 3), (2048, 2)])], 4096, 2, 2, 512)
    png.write(tmp_path / "disk.png", "disk", drawn)
    with PIL.Image.open(tmp_path / "disk.png") as image:
        seen = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
    assert {tuple(each) for each in legend.colours(drawn).tolist()} <= seen


@given(st.integers(0, 1 << 40))
def test_the_grid_of_a_picture_has_a_cell_for_each_cluster_as_long_as_it_can(clusters: int) -> None:
    columns, rows = png.grid(clusters)
    assert 16 <= columns <= 256
    assert columns * rows >= min(clusters, 256 * 128)
    assert rows <= 128


def test_a_title_that_is_too_long_keeps_its_ends(tmp_path: pathlib.Path) -> None:
    drawn = raster.draw([ranges([(512, 5)])], 512, *png.grid(1), 512)
    for title in ("x" * 500, "name", ""):
        png.write(tmp_path / "disk.png", title, drawn)
        with PIL.Image.open(tmp_path / "disk.png") as image:
            assert image.size == (84 + 1024 + 28, 64 + 64 + 76)
            # Nothing is written into the margin on the right.
            assert len(image.convert("RGB").crop((84 + 1024 + 1, 0, *image.size)).getcolors() or []) == 1
