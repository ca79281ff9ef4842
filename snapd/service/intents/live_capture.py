"""Capture an attached volume: its storage daemon puts a new head on the present one while the guest writes on.

intent    overlay row CREATING, operation, request                         point live_capture.begun
step 1    the overlay's file is made, published and lent                   points pool.layer_written,
                                                                                  live_capture.made
step 2    it is added to the storage daemon's graph, on nothing            point live_capture.added
step 3    what is dirty is flushed beside the guest, so that the switch    point live_capture.flushed
          has little to wait for
step 4    a transaction puts it on the head: what was answered before is   point live_capture.switched
          below it and durable, what comes later goes into it
commit    old head FROZEN, overlay HEAD, point, snapshot                   point live_capture.committed
undo      the overlay is taken out of the graph and doomed

While the storage daemon answers, its graph decides: with the overlay under the guest it goes on to the commit, without
it is undone, since the moment that was asked for is over. Once it is gone there is only forward: leaks are mended, and
the overlay becomes the head; whether the disk is served again is decided afterwards. While it neither answers nor is
gone the intent stays open.
"""

import datetime
import logging

from snapd import errors, fsops, model
from snapd.catalog import db, layers, volumes
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import jobs as running
from snapd.service.attaching import disks as disking
from snapd.service.intents import capture
from snapd.service.intents.attach import ATTACHMENT

KIND = "live_capture"

_log = logging.getLogger(__name__)


class Handler:
    """The steps. The payload is that of a capture, and the uid of the attachment; the subject is the volume."""

    reversible = True

    def __init__(self, core: cores.Core, disks: disking.Disks) -> None:
        self._core = core
        self._disks = disks

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Capture. The caller holds the mutexes of the volume and of its group. Raises jobs.Undecided."""
        del control
        lent = self._disks.find(intent.payload[ATTACHMENT])
        plan = capture.decode(intent.payload)
        try:
            captured = self._switch(intent, lent, plan)
        except Exception as error:
            if not self.decide(intent, error):
                raise
            _log.warning(
                "a capture was made in spite of an error: %s", error, extra={"volume": lent.uid}, exc_info=error
            )
            return
        self._commit(intent, lent, plan, captured)

    def _switch(self, intent: model.Intent, lent: disking.Lent, plan: capture.Capture) -> datetime.datetime:
        """Put the overlay on the head, and return when that was."""
        core = self._core
        process = self._disks.process(lent)
        self._make(intent, plan)
        self._disks.lend_overlay(lent, plan.overlay)
        fsops.point("live_capture.made")
        process.add_overlays([self._disks.layer(plan.overlay)])
        fsops.point("live_capture.added")
        if not lent.attachment.read_only:
            process.flush([lent.uid])
        fsops.point("live_capture.flushed")
        captured = core.now()
        process.switch({lent.top: plan.overlay})
        fsops.point("live_capture.switched")
        return captured

    def _make(self, intent: model.Intent, plan: capture.Capture) -> None:
        """Make the overlay's file; one that is there is kept."""
        core = self._core
        overlay = layers.get(core.catalog.reader(), plan.overlay)
        volume = volumes.by_uid(core.catalog.reader(), plan.volume_uid)
        assert volume is not None
        core.pool.create(overlay, capture.description(intent, volume, plan, core.now()))

    def decide(self, intent: model.Intent, cause: Exception | None = None) -> bool:
        """Finish an open capture, or say that it has to be undone, and then the overlay is in nobody's graph.

        Raises jobs.Undecided while the storage daemon neither answers nor is gone.
        """
        lent = self._disks.find(intent.payload[ATTACHMENT])
        plan = capture.decode(intent.payload)
        try:
            switched = self._is_switched(lent, plan)
            if switched is False:
                self._disks.withdraw(lent, plan.overlay)
                return False
            if switched is None:
                # Nobody has the head and the overlay any more: both are made fit to be frozen and used.
                self._make(intent, plan)
                self._disks.mend(lent.top)
                self._disks.mend(plan.overlay)
        except errors.SnapdError as error:
            raise running.Undecided(error) from cause or error
        # When it was switched nobody wrote down; it was begun before, and can't have taken long.
        captured = intent.created if switched else self._core.now()
        self._commit(intent, lent, plan, captured)
        return True

    def _is_switched(self, lent: disking.Lent, plan: capture.Capture) -> bool | None:
        """Say whether the overlay is under the guest; None: the storage daemon is gone, and nobody can tell."""
        process = self._disks.groups.reach(lent.daemon)
        if process is None:
            return None
        heads = self._disks.ask(lent, process, process.heads)
        if heads is None:
            return None
        top = heads.get(lent.uid)
        if top not in (lent.top, plan.overlay):
            problem = f"disk {lent.uid} stands on layer {top}, and not on {lent.top} or {plan.overlay}"
            raise errors.StorageDaemonRefused(name=lent.daemon.uid, command="a question", problem=problem)
        return top == plan.overlay

    def _commit(
        self, intent: model.Intent, lent: disking.Lent, plan: capture.Capture, captured: datetime.datetime
    ) -> None:
        core = self._core
        try:
            with core.catalog.transaction() as tx:
                capture.commit(core, tx, intent, plan, lent.top, captured)
        except Exception as error:
            # The guest may be writing the overlay: whatever went wrong here, that can't be undone any more.
            _log.exception("a capture could not be committed", extra={"volume": lent.uid})
            told = error if isinstance(error, errors.SnapdError) else errors.SnapdError()
            raise running.Undecided(told) from error
        fsops.point("live_capture.committed")
        core.pool.freeze(lent.top)
        self._disks.held.hold(lent.attachment.uid, plan.overlay)
        core.hints.layer(layers.get(core.catalog.reader(), lent.top).parent)

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Doom the overlay."""
        del problem
        layers.doom(tx, capture.decode(intent.payload).overlay)
