"""Vetting of images that come from outside: what they may not ask for, before a byte of them is used."""

import os
import pathlib

from snapd import errors
from snapd.qcow2 import layout
from snapd.qcow2.header import Header
from snapd.qcow2.image import Image

_SHOWN = 80
"""Characters of a backing name that are worth showing."""


def vet_import(path: pathlib.Path) -> Header:
    """Return the header of a foreign image that stands alone.

    Raises errors.ImageRefused, naming the reason, for any backing file, for an image marked corrupt, for a file with
    several links, and for whatever `Image.open` refuses. Entries of tables are judged when they are read.
    """
    with Image.open(path) as opened:
        header = opened.header
        if header.backing_name is not None:
            shown = header.backing_name[:_SHOWN]
            raise errors.ImageRefused(problem=f"it stands on a backing file, {shown!r}; send it flattened")
        if header.incompatible & layout.INCOMPATIBLE_CORRUPT:
            raise errors.ImageRefused(problem="it is marked corrupt; have `qemu-img check -r all` repair it first")
        if os.fstat(opened.fileno()).st_nlink != 1:
            raise errors.ImageRefused(problem="the file has several links")
        return header
