"""What is done at start about storage daemons that have outlived us: the guests notice nothing.

Pins are taken before recovery looks at anything. Once open intents are decided, each storage daemon is asked whether it
serves what the catalog says; those that are gone are buried.
"""

import logging
import uuid

from snapd import errors, model
from snapd.catalog import attachments, storagedaemons
from snapd.live import storage
from snapd.service import core as cores
from snapd.service.attaching import disks as disking
from snapd.service.attaching import revival

_log = logging.getLogger(__name__)


def hold(core: cores.Core, disks: disking.Disks) -> None:
    """Pin the layers of all disks that a storage daemon may have open."""
    for attachment in attachments.every(core.catalog.reader()):
        if attachment.state is not model.AttachmentState.CRASHED:
            disks.held.hold(attachment.uid, disks.find(attachment.uid).top)


def adopt(core: cores.Core, disks: disking.Disks) -> None:
    """Take over the storage daemons that are there, and bury those that are gone; one that is silent is left alone."""
    for daemon in storagedaemons.every(core.catalog.reader()):
        try:
            process = disks.groups.reach(daemon)
            if process is None:
                bury(core, disks, daemon)
            else:
                compare(core, disks, daemon, process)
        except errors.SnapdError as error:
            _log.error("a storage daemon can't be adopted: %s", error, extra={"storage_daemon": daemon.uid})
            disks.groups.note(daemon.uid, error)
    _sweep(core, disks)


def compare(
    core: cores.Core, disks: disking.Disks, daemon: model.StorageDaemon, process: storage.StorageDaemon
) -> None:
    """See that a storage daemon serves what the catalog says, and set its limits again.

    One that was started anew may lack disks, and gets them. Raises errors.StorageDaemonRefused if it serves another
    layer, or lacks what can't be added without telling the guest.
    """
    exported, heads = process.exported(), process.heads()
    for attachment in attachments.of_daemon(core.catalog.reader(), daemon.uid):
        if attachment.state is not model.AttachmentState.ATTACHED:
            continue
        lent = disks.find(attachment.uid)
        found = heads.get(lent.uid)
        if found is None and attachment.writethrough:
            revival.add(disks, process, lent)
        elif found != lent.top or lent.uid not in exported:
            problem = f"disk {lent.uid} stands on layer {found}, and by the catalog on {lent.top}"
            raise errors.StorageDaemonRefused(name=daemon.uid, command="adoption", problem=problem)
        disks.set_limits(attachment.uid)
        disks.freeze_below(lent)


def bury(core: cores.Core, disks: disking.Disks, daemon: model.StorageDaemon) -> None:
    """Say of the disks of a storage daemon that is gone that they have crashed, once their files are ours alone.

    Those whose intents are open are decided by them. Raises errors.ImageBusy, errors.StorageFailed.
    """
    for attachment in attachments.of_daemon(core.catalog.reader(), daemon.uid):
        if attachment.state is not model.AttachmentState.ATTACHED:
            continue
        lent = disks.find(attachment.uid)
        if lent.is_head:
            disks.mend(lent.top)
        with core.catalog.transaction() as tx:
            attachments.set_state(tx, attachment.uid, model.AttachmentState.CRASHED)
            disks.touch(tx, lent)
        disks.held.release(attachment.uid)
        _log.error("the storage daemon of a disk is gone", extra={"disk": lent.name})


def _sweep(core: cores.Core, disks: disking.Disks) -> None:
    """Remove the folders of storage daemons without a row; one of them that serves something is reported."""
    folder = core.settings.live.exports_path
    known = {daemon.uid for daemon in storagedaemons.every(core.catalog.reader())}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name in known or not _is_uid(path.name):
            continue
        try:
            if disks.groups.sweep(path.name):
                continue
            problem = "it serves something that the catalog doesn't know"
        except errors.SnapdError as error:
            problem = str(error)
        _log.error("nothing explains a storage daemon's folder: %s", problem, extra={"path": str(path)})


def _is_uid(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
