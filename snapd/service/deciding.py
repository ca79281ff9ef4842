"""What becomes of changes to attached volumes that nobody runs any more, and of storage daemons that died.

While a storage daemon answers its graph decides; once it is gone everything goes forward, but for an attach, which is
undone; while it neither answers nor is gone nothing is decided: the intent stays open, and whoever asks next, a caller
or the supervisor, asks again.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Protocol

from snapd import errors, model
from snapd.catalog import attachments, journal, storagedaemons
from snapd.service import core as cores
from snapd.service import jobs as running
from snapd.service.attaching import adoption, revival
from snapd.service.attaching import disks as disking
from snapd.service.attaching import groups as grouping
from snapd.service.intents import attach, detach, live_capture

KINDS = frozenset({attach.KIND, detach.KIND, live_capture.KIND})
"""Kinds of intents that ask a storage daemon: its graph decides what becomes of them."""


class Handler(Protocol):
    """A handler that can tell what became of an intent that nobody runs any more."""

    def decide(self, intent: model.Intent) -> bool:
        """Finish the intent, or say that it has to be undone and that no storage daemon has anything of it.

        Raises jobs.Undecided.
        """
        ...


class Decider:
    """Decides."""

    def __init__(
        self, core: cores.Core, jobs: running.Jobs, disks: disking.Disks, handlers: Mapping[str, Handler]
    ) -> None:
        """Take the handlers of those intents that aren't just run again, by their kinds."""
        self._core = core
        self._jobs = jobs
        self._disks = disks
        self._handlers = handlers

    # --- deciding what is open ----------------------------------------------------------------------------------------

    @contextmanager
    def settled(self, disk_uid: str) -> Iterator[model.Attachment | None]:
        """Hold the mutex of the group that serves a disk, and yield its attachment, with nothing about it left open.

        The caller holds the disk's mutex. Raises errors.StorageDaemonBusy, errors.StorageDaemonRefused.
        """
        self.decide_open(disk_uid)
        core = self._core
        with self.lent(disk_uid):
            found = attachments.of_disk(core.catalog.reader(), disk_uid)
            if found is not None and found.state is model.AttachmentState.ATTACHED:
                self.present(storagedaemons.get(core.catalog.reader(), found.storage_daemon))
                found = attachments.of_disk(core.catalog.reader(), disk_uid)
            yield found

    def present(self, daemon: model.StorageDaemon, *, revive: bool = True) -> model.StorageDaemon | None:
        """Return a storage daemon that answers, as its row is now: one that is gone is started anew if that is right.

        Else its disks have crashed, and None is returned; they also have if it can't be started. The caller holds the
        group's mutex. Raises errors.SnapdError if it neither answers nor is gone, or couldn't be started.
        """
        core = self._core
        if self._disks.groups.reach(daemon) is not None:
            return daemon
        # What was switched and not written down would be lost if a disk were served from its old head.
        self._decide_group(daemon.uid)
        if revive and revival.is_right(core, daemon):
            self._revive(daemon)
            return storagedaemons.get(core.catalog.reader(), daemon.uid)
        adoption.bury(core, self._disks, daemon)
        return None

    @contextmanager
    def lent(self, disk_uid: str) -> Iterator[None]:
        """Hold the mutex of the group that serves a disk, if one does."""
        reader = self._core.catalog.reader()
        attachment = attachments.of_disk(reader, disk_uid)
        if attachment is None:
            yield
            return
        with self._core.locks.holding(grouping.key(storagedaemons.get(reader, attachment.storage_daemon))):
            yield

    def decide_open(self, disk_uid: str) -> None:
        """Decide what an earlier call had to leave open. The caller holds the disk's mutex.

        Raises errors.StorageDaemonBusy while it can't be.
        """
        for intent in journal.intents_of(self._core.catalog.reader(), disk_uid):
            if intent.kind in KINDS:
                with self.lent(disk_uid):
                    self.decide(intent)

    def _decide_group(self, daemon_uid: str) -> None:
        """Decide what is open on any disk of a group; who runs such an intent holds its mutex, as the caller does."""
        reader = self._core.catalog.reader()
        for attachment in attachments.of_daemon(reader, daemon_uid):
            for intent in journal.intents_of(reader, attachment.disk):
                if intent.kind in KINDS:
                    self.decide(intent)

    def decide(self, intent: model.Intent) -> bool:
        """Finish or undo an open intent that nobody runs, and say which. Raises errors.SnapdError if it stays open.

        The caller holds the mutex of the group, or is recovery.
        """
        handler = self._handlers.get(intent.kind)
        if handler is None:
            self._jobs.run_now(intent)
            return True
        try:
            finished = handler.decide(intent)
        except running.Undecided as undecided:
            raise undecided.error from undecided.__cause__
        if not finished:
            cut = errors.StorageDaemonGone(name=intent.subject, problem="the daemon was stopped before it was done")
            self._jobs.give_up(intent, cut)
        return finished

    # --- at start, at a death, and at the end -------------------------------------------------------------------------

    def hold(self) -> None:
        """Pin what is attached, before anything is swept."""
        adoption.hold(self._core, self._disks)

    def adopt(self) -> None:
        """Take over the storage daemons that have outlived us, once open intents are decided."""
        adoption.adopt(self._core, self._disks)

    def look_after(self, daemon_uid: str, *, revive: bool) -> None:
        """Ask a storage daemon how it is: decide what is open, and start one that died anew if that is right.

        `revive` is whether it may be started; else its disks have crashed. Raises errors.SnapdError if it neither
        answers nor is gone, isn't what the catalog says, or couldn't be started: its disks have crashed then, unless
        somebody has them open.
        """
        core = self._core
        with self._whole_group(daemon_uid):
            self._decide_group(daemon_uid)
            daemon = storagedaemons.find(core.catalog.reader(), daemon_uid)
            if daemon is None:
                return
            found = self.present(daemon, revive=revive)
            process = None if found is None else self._disks.groups.reach(found)
            if found is not None and process is not None:
                adoption.compare(core, self._disks, found, process)

    def _revive(self, daemon: model.StorageDaemon) -> None:
        core = self._core
        try:
            revival.revive(core, self._disks, daemon)
        except errors.StorageDaemonGone:
            # It has died once more; the supervisor counts.
            self._disks.groups.kill(storagedaemons.get(core.catalog.reader(), daemon.uid))
            raise
        except errors.SnapdError:
            # It may have been started, and serve some of its disks: to none of them anybody is connected yet.
            present = storagedaemons.get(core.catalog.reader(), daemon.uid)
            self._disks.groups.kill(present)
            adoption.bury(core, self._disks, present)
            raise

    @contextmanager
    def _whole_group(self, daemon_uid: str) -> Iterator[None]:
        """Hold the mutexes of all disks of a group, in their order, and then the group's."""
        core = self._core
        with ExitStack() as stack:
            for uid in sorted(self._served(daemon_uid)):
                stack.enter_context(core.locks.holding(uid))
            daemon = storagedaemons.find(core.catalog.reader(), daemon_uid)
            if daemon is not None:
                stack.enter_context(core.locks.holding(grouping.key(daemon)))
            yield

    def _served(self, daemon_uid: str) -> list[str]:
        found = attachments.of_daemon(self._core.catalog.reader(), daemon_uid)
        return [attachment.disk for attachment in found]

    def close(self) -> None:
        """Let go of the storage daemons; they run on."""
        self._disks.groups.close()
