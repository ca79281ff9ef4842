"""A disk brought up in a storage daemon, and taken down again: the steps that attaching and detaching are made of.

Each step can be done again, with the process there or gone.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import TypeVar

from snapd import errors, model
from snapd.catalog import attachments, db, layers, snapshots, storagedaemons, volumes
from snapd.live import graph, launcher, storage
from snapd.qcow2.checking import repair
from snapd.service import core as cores
from snapd.service import names
from snapd.service.attaching import groups as grouping
from snapd.service.attaching import held as holding
from snapd.service.attaching import lending

_END_S = 1.0
"""A process hangs up a moment before it has ended."""

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Lent:
    """An attachment with what it is about, as the catalog has it."""

    attachment: model.Attachment
    daemon: model.StorageDaemon
    name: str
    """Resource name of the volume or the snapshot."""
    size_bytes: int
    top: str
    """Uid of the volume's head, or of the snapshot's frozen layer."""

    @property
    def uid(self) -> str:
        """Uid of the volume or the snapshot."""
        return self.attachment.disk

    @property
    def is_head(self) -> bool:
        """Whether a guest may change the top, and with it its refcounts."""
        return self.attachment.top is None


class Disks:
    """The disks that are lent."""

    def __init__(self, core: cores.Core, groups: grouping.Groups, held: holding.Held) -> None:
        self._core = core
        self.groups = groups
        self.held = held

    def find(self, attachment_uid: str) -> Lent:
        """Return an attachment, which must be there, with its disk and its storage daemon."""
        reader = self._core.catalog.reader()
        attachment = attachments.by_uid(reader, attachment_uid)
        assert attachment is not None
        daemon = storagedaemons.get(reader, attachment.storage_daemon)
        if attachment.top is not None:
            snapshot = snapshots.by_uid(reader, attachment.disk)
            assert snapshot is not None
            name = names.snapshot(snapshot.environment, snapshot.id)
            return Lent(attachment, daemon, name, snapshot.size_bytes, attachment.top)
        volume = volumes.by_uid(reader, attachment.disk)
        assert volume is not None
        assert volume.head_layer is not None
        name = names.volume(volume.environment, volume.id)
        return Lent(attachment, daemon, name, volume.size_bytes, volume.head_layer)

    def touch(self, tx: db.Transaction, lent: Lent) -> None:
        """Record that the attachment of a disk changed."""
        touch = volumes.touch if lent.is_head else snapshots.touch
        touch(tx, lent.uid, self._core.now())

    # --- up -----------------------------------------------------------------------------------------------------------

    def lend(self, lent: Lent) -> list[model.Layer]:
        """Pin, vet and lend a disk's layers, and return them, the top first.

        Raises errors.ImageBusy if somebody has the head open, errors.Corrupt, errors.WrongState, errors.StorageFailed.
        """
        core = self._core
        below = self.held.hold(lent.attachment.uid, lent.top)
        if any(layer.state is model.LayerState.FOLDING for layer in below):
            raise errors.WrongState(
                name=lent.name, state="in a merge of layers that failed", method="attaching", allowed="out of it"
            )
        if lent.is_head:
            repair.repair_leaks(core.pool.path(lent.top))
        with core.pool.opened(below):
            pass  # every header was read: none asks for a file that isn't the pool's
        lending.lend(core, self._account(lent), below, read_only=lent.attachment.read_only)
        return below

    def _account(self, lent: Lent) -> launcher.Account | None:
        return self.groups.launcher_of(lent.daemon).account

    def process(self, lent: Lent) -> storage.StorageDaemon:
        """Return the storage daemon of a group, started if it never was. Raises errors.StorageDaemonGone."""
        if not lent.daemon.boot:
            return self.groups.start(lent.daemon)
        found = self.groups.reach(lent.daemon)
        if found is None:
            raise errors.StorageDaemonGone(name=lent.daemon.uid, problem="it ended while a volume was attached to it")
        return found

    def described(self, lent: Lent, below: list[model.Layer]) -> graph.Disk:
        """Return a disk, with its layers from the top downwards, as it is exported."""
        attachment = lent.attachment
        return graph.Disk(
            uid=lent.uid,
            size_bytes=lent.size_bytes,
            chain=[self.layer(layer.uid) for layer in below],
            way=attachment.way,
            read_only=attachment.read_only,
            writethrough=attachment.writethrough,
            limits=attachment.limits,
        )

    def layer(self, uid: str) -> graph.Layer:
        """Return a layer as the graph takes it."""
        return graph.Layer(uid, self._core.pool.path(uid))

    def lend_overlay(self, lent: Lent, overlay: str) -> None:
        """Lend a layer that will be put on a disk's head. Raises errors.StorageFailed."""
        layer = layers.get(self._core.catalog.reader(), overlay)
        lending.lend(self._core, self._account(lent), [layer], read_only=False)

    def freeze_below(self, lent: Lent) -> None:
        """Take the permission to write from the layers below a head: who froze them may have died before that."""
        core = self._core
        for layer in layers.chain(core.catalog.reader(), lent.top)[1:]:
            if core.pool.is_writable(layer.uid):
                core.pool.freeze(layer.uid)

    def withdraw(self, lent: Lent, overlay: str) -> None:
        """Take a layer that was put on nothing out of the storage daemon, if that is there."""
        found = self.groups.reach(lent.daemon)
        if found is not None:
            self.ask(lent, found, lambda: found.withdraw([overlay]))

    def set_limits(self, attachment_uid: str) -> None:
        """Tell the storage daemon of a disk the limits that its row has, if it is there.

        Raises errors.StorageDaemonBusy, errors.StorageDaemonRefused.
        """
        lent = self.find(attachment_uid)
        found = self.groups.reach(lent.daemon)
        if found is not None:
            limits = lent.attachment.limits
            self.ask(lent, found, lambda: found.set_limits(lent.uid, limits))

    # --- down ---------------------------------------------------------------------------------------------------------

    def flush(self, lent: Lent) -> None:
        """Have what the guest wrote made durable, if the storage daemon is there and has the disk."""
        found = self.groups.reach(lent.daemon)
        if found is not None and not lent.attachment.read_only:
            self.ask(lent, found, lambda: found.flush({lent.uid} & found.exported()))

    def remove(self, lent: Lent) -> None:
        """End the export and close its layers, if the storage daemon is there; stop one that serves nothing else.

        Raises errors.StorageDaemonBusy, errors.StorageDaemonRefused.
        """
        found = self.groups.reach(lent.daemon)
        if found is None:
            return
        below = [layer.uid for layer in layers.chain(self._core.catalog.reader(), lent.top)]
        self.ask(lent, found, lambda: found.remove(lent.uid, below))
        self.ask(lent, found, lambda: self.groups.stop_if_idle(lent.daemon, found))

    def take_back(self, lent: Lent) -> None:
        """Mend leaks once nobody has a head open, take back what was lent, and remove the folder of who is gone.

        Raises errors.ImageBusy if somebody has the head open, errors.StorageFailed.
        """
        if lent.is_head:
            self.mend(lent.top)
        below = layers.chain(self._core.catalog.reader(), lent.top)
        lending.take_back(self._core, self._account(lent), below, lent.attachment.uid)
        self.groups.clear(lent.daemon, lent.attachment.uid)

    def clear_crashed(self, disk_uid: str) -> None:
        """Remove the folder of the storage daemon that a disk had when it crashed, unless others name that too."""
        reader = self._core.catalog.reader()
        found = attachments.of_disk(reader, disk_uid)
        if found is not None and found.state is model.AttachmentState.CRASHED:
            self.groups.clear(storagedaemons.get(reader, found.storage_daemon), found.uid)

    def mend(self, head: str) -> None:
        """Mend what the end of a storage daemon left in a head. Raises errors.ImageBusy if somebody has it open."""
        try:
            leaked = repair.repair_leaks(self._core.pool.path(head))
        except (errors.Corrupt, errors.ImageRefused) as damage:
            # It was as bad before; a check tells of it, and it can be reverted or deleted once it is detached.
            _log.error("a head that was attached is damaged: %s", damage, extra={"layer": head})
            return
        if leaked:
            _log.info("repaired leaked clusters", extra={"layer": head, "clusters": leaked})

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask(self, lent: Lent, process: storage.StorageDaemon, question: Callable[[], Answer]) -> Answer | None:
        """Return a storage daemon's answer; None: it has ended, which settles what it was asked for as well.

        Raises what the question raises; that it wasn't answered in time is remembered.
        """
        try:
            return question()
        except errors.StorageDaemonGone:
            if not process.wait(_END_S):
                raise
            return None
        except errors.StorageDaemonBusy as busy:
            self.groups.note(lent.daemon.uid, busy)
            raise
