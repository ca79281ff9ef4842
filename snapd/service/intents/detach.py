"""Detach a volume or a snapshot: end its export, and have its files to ourselves again. It is only ever finished.

intent    attachment DETACHING, operation, request                         point detach.begun
step 1    what the guest wrote is flushed, if the process is there         point detach.flushed
step 2    limits are lifted; export, filter and nodes are removed, if the  point detach.removed
          process is there; one that serves nothing else is stopped
step 3    nobody has a head open: its leaks are mended; what was lent      point detach.before_commit
          is taken back; the folder of a process that is gone is removed
commit    attachment gone, pins released; a storage daemon's row that      point detach.committed
          nobody names goes too, and a snapshot's layer that nothing needs

While the storage daemon neither answers nor is gone, the intent stays open.
"""

import datetime

from snapd import errors, fsops, model
from snapd.catalog import attachments, db, journal, layers, operations, storagedaemons
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import jobs as running
from snapd.service.attaching import disks as disking
from snapd.service.intents.attach import ATTACHMENT

KIND = "detach"


def require_attached(tx: db.Transaction, disk_uid: str, name: str, method: str) -> model.Attachment:
    """Return the attachment of a disk. Raises errors.WrongState if it has none."""
    found = attachments.of_disk(tx.connection, disk_uid)
    if found is None:
        raise errors.WrongState(name=name, state="detached", method=method, allowed="attached")
    return found


def begin(
    tx: db.Transaction, attachment: model.Attachment, operation: model.Operation, now: datetime.datetime
) -> model.Intent:
    """Store that an attachment is to be taken down, and open the intent."""
    attachments.set_state(tx, attachment.uid, model.AttachmentState.DETACHING)
    payload = {ATTACHMENT: attachment.uid, running.INLINE: "1"}
    return journal.open_intent(tx, KIND, attachment.disk, payload, now, operation.uid)


class Handler:
    """The steps."""

    reversible = False

    def __init__(self, core: cores.Core, disks: disking.Disks) -> None:
        self._core = core
        self._disks = disks

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Detach. The caller holds the mutexes of the disk and of its group, or is recovery."""
        del control
        core, disks = self._core, self._disks
        lent = disks.find(intent.payload[ATTACHMENT])
        disks.flush(lent)
        fsops.point("detach.flushed")
        disks.remove(lent)
        fsops.point("detach.removed")
        disks.take_back(lent)
        fsops.point("detach.before_commit")
        now = core.now()
        with core.catalog.transaction() as tx:
            attachments.remove(tx, lent.attachment.uid)
            layers.doom_unneeded(tx, lent.attachment.top)
            storagedaemons.forget_unused(tx, lent.daemon.uid)
            disks.touch(tx, lent)
            operations.end(tx, intent.operation, now)
            journal.close_intent(tx, intent)
        disks.held.release(lent.attachment.uid)
        fsops.point("detach.committed")
        core.sweep()

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Never called: the guest may be gone already, so only going on is right."""
        raise NotImplementedError
