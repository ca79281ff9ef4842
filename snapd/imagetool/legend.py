"""What the pictures of an allocation have in common: colours, names, totals."""

from collections.abc import Iterator

import numpy as np

from snapd import units
from snapd.blockmap import UInt8Array
from snapd.imagetool.raster import Look, Raster

NAMES = {
    Look.DATA: "data",
    Look.COMPRESSED: "compressed",
    Look.ZERO: "zeros",
    Look.PREALLOCATED: "preallocated",
    Look.UNALLOCATED: "unallocated",
}

COLOURS = np.array([(86, 156, 236), (240, 160, 75), (92, 172, 138), (66, 96, 140), (44, 49, 58)], np.float64)
"""Red, green and blue by Look. They differ in brightness too, so that they can be told apart without seeing colours."""


def colours(raster: Raster) -> UInt8Array:
    """Return red, green and blue of each cell: three for each.

    A cell shows what it holds, mixed by shares and the more brightly the fuller it is; the roots lift what is little.
    """
    held = np.sqrt(raster.shares[:, : Look.UNALLOCATED])
    sums = held.sum(axis=1, keepdims=True)
    inner = held @ COLOURS[: Look.UNALLOCATED] / np.maximum(sums, 1e-12)
    full = np.sqrt(1 - np.minimum(raster.shares[:, Look.UNALLOCATED :], 1))
    visible = np.where(sums > 0, 0.35 + 0.65 * full, 0)
    mixed: UInt8Array = np.rint(visible * inner + (1 - visible) * COLOURS[Look.UNALLOCATED]).astype(np.uint8)
    return mixed


def totals(raster: Raster) -> Iterator[tuple[Look, str]]:
    """Yield what there is, with how much of it."""
    for look in Look:
        total = raster.totals[look]
        if total:
            yield look, f"{NAMES[look]}  {units.format_size(total)}  {share(total, raster.size_bytes)}"


def share(part: int, whole: int) -> str:
    """Return a share as people write it: '12.3 %', and '< 0.1 %' for what is there but hardly."""
    percent = 100 * part / max(whole, 1)
    return f"{percent:.1f} %" if percent >= 0.1 or part == 0 else "< 0.1 %"
