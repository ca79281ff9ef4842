"""`image map --output=json`: the ranges of a disk in the words and the very bytes of `qemu-img map --output=json`.

A fragmented disk has millions of ranges: lines are put together a few thousand at a time, by templates that wait for
numbers only.
"""

from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from snapd.imagetool import status
from snapd.imagetool.status import Ranges

_LINES = 4096
_PLACED = 16
"""Joins the flags of status in a template's number: the range has an offset."""


def write(found: Iterable[Ranges], out: BinaryIO) -> None:
    """Write the array of all ranges. Raises OSError."""
    templates: dict[int, str] = {}
    before = "["
    for ranges in found:
        for first in range(0, len(ranges), _LINES):
            text = _lines(ranges.part(slice(first, first + _LINES)), templates)
            out.write((before + text).encode("ascii"))
            before = ",\n"
    out.write(b"[]\n" if before == "[" else b"]\n")


def _lines(ranges: Ranges, templates: dict[int, str]) -> str:
    placed = ranges.offset >= 0
    keys = (ranges.depth.astype(np.int64) << 5) | ranges.flags | np.where(placed, _PLACED, 0)
    for key in set(np.unique(keys).tolist()) - templates.keys():
        templates[key] = _template(key)
    numbers = np.stack((ranges.start, ranges.length, ranges.offset), axis=1)
    shown = np.stack((np.ones_like(placed), np.ones_like(placed), placed), axis=1)
    return ",\n".join([templates[key] for key in keys.tolist()]) % tuple(numbers[shown].tolist())


def _template(key: int) -> str:
    present, zero, data = ("true" if key & flag else "false" for flag in (status.PRESENT, status.ZERO, status.DATA))
    offset = ', "offset": %d' if key & _PLACED else ""
    return (
        f'{{ "start": %d, "length": %d, "depth": {key >> 5}, "present": {present}, "zero": {zero}, "data": {data}'
        f"{offset}}}"
    )
