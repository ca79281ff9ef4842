"""Vetting of images that come from outside: what they may not ask for, before a byte of them is used."""

import os
import pathlib

from snapd import errors
from snapd.qcow2 import layout
from snapd.qcow2.header import Header
from snapd.qcow2.image import Image


def vet_import(path: pathlib.Path) -> Header:
    """Return the header of a foreign image that stands alone.

    Raises errors.ImageRefused, naming the reason, for any backing file, for an image marked corrupt, for a file with
    several links, and for whatever `Image.open` refuses. Entries of tables are judged when they are read.
    """
    with Image.open(path) as opened:
        header = opened.header
        if header.backing_name is not None:
            raise errors.ImageRefused(problem="it has a backing file")
        if header.incompatible & layout.INCOMPATIBLE_CORRUPT:
            raise errors.ImageRefused(problem="it is marked corrupt")
        if os.fstat(opened.fileno()).st_nlink != 1:
            raise errors.ImageRefused(problem="the file has several links")
        return header
