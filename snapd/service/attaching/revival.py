"""Start a storage daemon that has died anew, on the same sockets, so that its guests go on where they were.

Right only if no disk of the group had a volatile cache: then every write that was answered is in the files. The rows
stay as they are but for the process that they name, and tell at each moment what there is, so no intent is needed: a
start that is cut short is gone on with by the adoption, which adds the disks that a process of ours lacks.

step 1    nobody has the heads open: their leaks are mended               point revive.mended
step 2    the process is started; its row says which it is                points storage_daemon.spawned,
                                                                                 revive.started
step 3    nodes and exports of all disks are added, and looked at         point revive.added
commit    the disks have changed: their attachments' generation           point revive.committed
"""

from snapd import fsops, model
from snapd.catalog import attachments
from snapd.live import storage
from snapd.service import core as cores
from snapd.service.attaching import disks as disking


def is_right(core: cores.Core, daemon: model.StorageDaemon) -> bool:
    """Say whether a storage daemon that is gone may be started anew without its guests being told."""
    served = _served(core, daemon)
    return bool(served) and all(attachment.writethrough or attachment.read_only for attachment in served)


def _served(core: cores.Core, daemon: model.StorageDaemon) -> list[model.Attachment]:
    return [
        attachment
        for attachment in attachments.of_daemon(core.catalog.reader(), daemon.uid)
        if attachment.state is model.AttachmentState.ATTACHED
    ]


def revive(core: cores.Core, disks: disking.Disks, daemon: model.StorageDaemon) -> None:
    """Start a storage daemon that is gone as its next generation, with all of its disks.

    Raises errors.ImageBusy if somebody has a head open, what live.storage.start raises, and what `add` does; there may
    be a process then, with some of the disks.
    """
    lent = [disks.find(attachment.uid) for attachment in _served(core, daemon)]
    for each in lent:
        if each.is_head:
            disks.mend(each.top)
    fsops.point("revive.mended")
    process = disks.groups.start(daemon)
    fsops.point("revive.started")
    for each in lent:
        add(disks, process, each)
    fsops.point("revive.added")
    with core.catalog.transaction() as tx:
        for each in lent:
            disks.touch(tx, each)
    fsops.point("revive.committed")


def add(disks: disking.Disks, process: storage.StorageDaemon, lent: disking.Lent) -> None:
    """Export a disk that an attachment says is exported. Raises errors.StorageDaemonBusy, StorageDaemonRefused."""
    below = disks.held.hold(lent.attachment.uid, lent.top)
    process.add(disks.described(lent, below))
