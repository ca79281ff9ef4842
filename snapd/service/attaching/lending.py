"""Files of the pool lent to the account of a storage daemon, and taken back when no attachment needs them any more.

A storage daemon that runs under our own account needs none of this. Search is lent of each folder on the way from the
state folder down, and stays: it lets nobody list what is in there, and no file can be opened by it.
"""

import pathlib
from collections.abc import Iterable, Iterator, Sequence

from snapd import model
from snapd.catalog import attachments, layers, volumes
from snapd.live import launcher
from snapd.live import lending as access
from snapd.service import core as cores


def lend(core: cores.Core, account: launcher.Account | None, chain: Sequence[model.Layer], *, read_only: bool) -> None:
    """Lend a disk's layers, given from the top downwards: the top to be written, unless read_only, the others to read.

    Raises errors.StorageFailed.
    """
    if account is None:
        return
    for layer in chain:
        path = core.pool.path(layer.uid)
        for folder in _folders(core, path):
            access.lend(folder, account.uid, access.SEARCH)
        writable = layer is chain[0] and not read_only
        access.lend(path, account.uid, access.READ | (access.WRITE if writable else 0))


def take_back(
    core: cores.Core, account: launcher.Account | None, chain: Iterable[model.Layer], attachment_uid: str
) -> None:
    """Take layers back that an attachment was lent, but for those that another one needs.

    Raises errors.StorageFailed.
    """
    if account is None:
        return
    needed = set(_needed_by_others(core, attachment_uid))
    for layer in chain:
        if layer.uid not in needed:
            access.take_back(core.pool.path(layer.uid), account.uid)


def _needed_by_others(core: cores.Core, attachment_uid: str) -> Iterator[str]:
    reader = core.catalog.reader()
    for other in attachments.every(reader):
        volume = volumes.by_uid(reader, other.disk)
        top = other.top if volume is None else volume.head_layer
        if top is not None and other.uid != attachment_uid and other.state is not model.AttachmentState.CRASHED:
            yield from (layer.uid for layer in layers.chain(reader, top))


def _folders(core: cores.Core, path: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders that are ours on the way to a layer's file."""
    state = core.settings.catalog_path.parent
    first = state if path.is_relative_to(state) else core.pool.root
    return [folder for folder in path.parents if folder.is_relative_to(first)]
