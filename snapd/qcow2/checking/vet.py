"""Vetting of images that come from outside: what they may not ask for, before a byte of them is used."""

import functools
import os
import pathlib
from collections.abc import Callable
from contextlib import ExitStack

from snapd import errors, fsops
from snapd.qcow2.checking import check
from snapd.qcow2.format import foreign, layout
from snapd.qcow2.format.header import Header
from snapd.qcow2.reading.image import Image

_SHOWN = 80
"""Characters of a backing name that are worth showing."""


def vet_import(path: pathlib.Path) -> Header:
    """Return the header of a foreign image that stands alone and is sound.

    Raises as `open_import` does, and errors.ImageRefused for an image whose tables or refcounts can't be, in time and
    memory that depend on what the file holds and not on what it claims.
    """
    with open_import(path) as opened:
        try:
            check.require_sound(opened)
            _require_no_ordinary_tables(opened)
        except errors.Corrupt as damage:
            raise errors.ImageRefused(
                problem=f"it is damaged: {damage.problem}; repair it with `qemu-img check -r all`, then rewrite it with"
                " `qemu-img convert -O qcow2`"
            ) from damage
        return opened.header


def _require_no_ordinary_tables(opened: Image) -> None:
    """Raise errors.Corrupt for what ordinary tables look like when somebody has set the bit of extended L2 entries.

    Every second entry is then taken for a bitmap, and what it refers to for lost.
    """
    if opened.header.extended_l2:
        with fsops.translated(opened.path):
            leaks = check.check(opened.path).leaks
        if leaks:
            raise errors.Corrupt(
                what=opened.path.name,
                problem=f"it has extended L2 entries and {leaks} clusters that nothing refers to, as if its entries"
                " were ordinary ones",
            )


def open_import(path: pathlib.Path) -> Image:
    """Open a foreign image that stands alone, to be read through the very descriptor that was vetted.

    Raises errors.ImageRefused, naming the reason, for a file that has the signature of another format too, for any
    backing file, for an image marked corrupt, for a file with several links, and for whatever `Image.open` refuses;
    errors.StorageFailed. Entries of tables are judged when they are read.
    """
    with ExitStack() as undo:
        opened = undo.enter_context(Image.open(path))
        with fsops.translated(path):
            found = foreign.look(functools.partial(os.pread, opened.fileno()), opened.file_size)
            links = os.fstat(opened.fileno()).st_nlink
        header = opened.header
        if found != foreign.QCOW2:
            raise errors.ImageRefused(problem=foreign.why_not_qcow2(found))
        if header.backing_name is not None:
            shown = header.backing_name[:_SHOWN]
            raise errors.ImageRefused(problem=f"it stands on a backing file, {shown!r}; send it flattened")
        if header.incompatible & layout.INCOMPATIBLE_CORRUPT:
            raise errors.ImageRefused(problem="it is marked corrupt; have `qemu-img check -r all` repair it first")
        if links != 1:
            raise errors.ImageRefused(problem="the file has several links")
        undo.pop_all()
        return opened


def require_raw(read: Callable[[int, int], bytes], size_bytes: int) -> None:
    """Require that a disk of size_bytes may be what its label says, raw; read(length, offset) returns bytes of it.

    Raises errors.ImageRefused if it begins or ends as a file of another format does, and what `read` raises.
    """
    _refuse_as_raw(foreign.look(read, size_bytes))


def require_beginning(head: bytes, *, raw: bool) -> None:
    """Require that a file may be what its label says, raw or qcow2, by its first foreign.HEAD_BYTES alone.

    Only good for an early answer. Raises errors.ImageRefused.
    """
    found = foreign.recognise(head, b"")
    if raw:
        _refuse_as_raw(found)
    elif found != foreign.QCOW2:
        raise errors.ImageRefused(problem=foreign.why_not_qcow2(found))


def _refuse_as_raw(found: str | None) -> None:
    if found is not None:
        raise errors.ImageRefused(
            problem=f"it is labelled raw and has the signature of {found}; if its guest is to see these very bytes,"
            " wrap them with `qemu-img convert -f raw -O qcow2` and send that as qcow2"
        )
