"""Attach a volume, or a snapshot to be read: lend it to a storage daemon, which exports it to a guest.

intent    attachment ATTACHING, maybe a row for the group's storage        point attach.begun
          daemon, operation, request
step 1    its layers are pinned and vetted, leaks of the head are mended:  point attach.lent
          so nobody has it open; all are lent
step 2    the group's storage daemon is started, unless there is one; its  points storage_daemon.spawned,
          row says which process it is                                            attach.started
step 3    nodes and export are added, and looked at over NBD               point attach.exported
commit    attachment ATTACHED                                              point attach.committed
undo      export and nodes are removed, a process that serves nothing      points attach.removed,
          else is stopped, nothing is lent; then the attachment goes              attach.before_undo

Nobody was told of its sockets, so one that dies is undone. That asks the storage daemon too: while it neither answers
nor is gone, the intent stays open.
"""

import dataclasses
import datetime

from snapd import errors, fsops, model
from snapd.catalog import attachments, db, journal, layers, operations, storagedaemons
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import jobs as running
from snapd.service.attaching import disks as disking

KIND = "attach"

ATTACHMENT = "attachment"
"""Payload: uid of the attachment. The subject is the volume or the snapshot."""


def begin(
    tx: db.Transaction,
    daemon: model.StorageDaemon,
    attachment: model.Attachment,
    operation: model.Operation,
    now: datetime.datetime,
) -> model.Intent:
    """Store an attachment that is to be brought up, in the place of one that has crashed, and open the intent."""
    crashed = attachments.of_disk(tx.connection, attachment.disk)
    if crashed is not None:
        # Another folder, so that nobody connects again without knowing what was lost.
        attachments.remove(tx, crashed.uid)
        storagedaemons.forget_unused(tx, crashed.storage_daemon)
    storagedaemons.put(tx, daemon)
    attachments.put(tx, attachment)
    payload = {ATTACHMENT: attachment.uid, running.INLINE: "1"}
    return journal.open_intent(tx, KIND, attachment.disk, payload, now, operation.uid)


class Handler:
    """The steps."""

    reversible = True

    def __init__(self, core: cores.Core, disks: disking.Disks) -> None:
        self._core = core
        self._disks = disks

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Attach. The caller holds the mutexes of the disk and of its group. Raises jobs.Undecided."""
        del control
        try:
            self._bring_up(intent)
        except Exception as error:
            if journal.is_open(self._core.catalog.reader(), intent):
                self.decide(intent, error)
            raise

    def _bring_up(self, intent: model.Intent) -> None:
        disks = self._disks
        lent = disks.find(intent.payload[ATTACHMENT])
        below = disks.lend(lent)
        fsops.point("attach.lent")
        process = disks.process(lent)
        fsops.point("attach.started")
        process.add(disks.described(lent, below))
        fsops.point("attach.exported")
        now = self._core.now()
        with self._core.catalog.transaction() as tx:
            attachments.put(tx, dataclasses.replace(lent.attachment, state=model.AttachmentState.ATTACHED))
            disks.touch(tx, lent)
            operations.end(tx, intent.operation, now)
            journal.close_intent(tx, intent)
        fsops.point("attach.committed")

    def decide(self, intent: model.Intent, cause: Exception | None = None) -> bool:
        """Take out of the storage daemon what was brought up, and say that the intent is to be undone.

        Raises jobs.Undecided.
        """
        lent = self._disks.find(intent.payload[ATTACHMENT])
        try:
            self._disks.remove(lent)
            fsops.point("attach.removed")
            self._disks.take_back(lent)
            fsops.point("attach.before_undo")
        except errors.SnapdError as error:
            raise running.Undecided(error) from cause or error
        self._disks.held.release(lent.attachment.uid)
        return False

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Forget the attachment, and a storage daemon that no other one names."""
        del problem
        attachment = attachments.by_uid(tx.connection, intent.payload[ATTACHMENT])
        assert attachment is not None
        # The row isn't there any more to tell what it was about.
        lent = self._disks.find(attachment.uid)
        attachments.remove(tx, attachment.uid)
        layers.doom_unneeded(tx, attachment.top)
        storagedaemons.forget_unused(tx, attachment.storage_daemon)
        self._disks.touch(tx, lent)
