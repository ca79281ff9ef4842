"""The keeper: the background thread that merges layers, collects archive garbage and clears what has expired.

It works off hints (see `hints`) and makes a round by itself every few minutes. Nothing waits for
it, and nothing that it does is ever needed for an answer to be right.
"""

import datetime
import logging
import threading

from snapd import clock as clocks
from snapd import errors, model
from snapd.catalog import events, journal, layers, operations, points
from snapd.copier import control as controls
from snapd.service import collecting, history, transfers
from snapd.service import core as cores
from snapd.service import jobs as running
from snapd.service import work as working
from snapd.service.intents import fold

_log = logging.getLogger(__name__)

ROUND = datetime.timedelta(minutes=5)
"""How often it looks at everything, whatever it was told."""
_NOTHING = datetime.timedelta(0)
OPERATIONS_KEPT = datetime.timedelta(days=30)
REQUESTS_KEPT = datetime.timedelta(hours=48)
EVENTS_KEPT = datetime.timedelta(hours=48)

_ARCHIVE_AWAY = (errors.Unavailable, errors.FailedPrecondition)
"""The archive is out of reach, or not this daemon's to change; somebody has to put that right."""


class Keeper:
    """The thread."""

    def __init__(
        self,
        core: cores.Core,
        jobs: running.Jobs,
        transfer_service: transfers.Transfers,
        work: working.Work,
        collector: collecting.Collector,
    ) -> None:
        self._core = core
        self._jobs = jobs
        self._work = work
        self._transfers = transfer_service
        self._rest = clocks.span(core.clock, _NOTHING)
        """Until the next round."""
        self._collector = collector
        self._thread = threading.Thread(target=self._loop, name="keeper")

    def start(self) -> None:
        """Begin, with a round over everything."""
        self._core.pins.on_release(self._core.hints.unpinned)
        self._work.on_change(self._core.hints.nudge)
        self._thread.start()

    def _loop(self) -> None:
        core = self._core
        while True:
            pause = self._paused()
            if pause is not None:
                if not core.hints.rest(core.clock, pause.until):
                    return
                continue
            if not core.hints.wait(core.clock, self._rest):
                return
            try:
                self._look()
            except controls.Stopped:
                return
            except Exception:
                # The end of a thread is a boundary: whatever goes wrong, layers must go on being merged.
                _log.exception("the keeper was interrupted; it goes on with its next round")

    def _paused(self) -> model.Pause | None:
        return self._work.obey(model.Worker.KEEPER)

    def _look(self) -> None:
        """Work off the hints, and make a round if it is time for one. A pause ends it after what is under way."""
        core = self._core
        if self._paused() is not None:
            return
        candidates, dirty = core.hints.take()
        if self._rest.is_over(core.now()):
            self._rest = clocks.span(core.clock, ROUND)
            self._make_round()
            candidates |= set(layers.frozen_uids(core.catalog.reader()))
            dirty |= self._archived()
        self._fold_all(candidates)
        self._collect_all(dirty)
        core.hints.put_back(candidates, dirty)

    def _archived(self) -> set[str]:
        """Return the environments that have anything in the archive; none if it can't be asked."""
        try:
            return set(self._core.repository.environments())
        except errors.SnapdError as error:
            self._say_away(error)
            return set()

    def _make_round(self) -> None:
        core = self._core
        now = core.now()
        with core.catalog.transaction() as tx:
            operations.trim(tx, now - OPERATIONS_KEPT)
            operations.trim_requests(tx, now - REQUESTS_KEPT)
            events.trim(tx, now - EVENTS_KEPT)
        self._transfers.expire_uploads()
        self._merge_points()
        core.sweep()
        for intent in journal.intents(core.catalog.reader()):
            if intent.kind == fold.KIND:
                self._run_fold(intent)

    def _merge_points(self) -> None:
        for point, child in points.mergeable(self._core.catalog.reader()):
            history.merge(self._core, point, child)

    # --- folds --------------------------------------------------------------------------------------------------------

    def _fold_all(self, candidates: set[str]) -> None:
        """Fold what can be folded among the candidates and their neighbours, until nothing is left to do."""
        core = self._core
        while candidates and self._paused() is None:
            uid = candidates.pop()
            pair = layers.foldable(core.catalog.reader(), uid)
            if pair is not None and self._fold(*pair):
                # The one that stays may now be folded into what stands on it, and so may the one below.
                candidates.update(layer.uid for layer in layers.chain(core.catalog.reader(), pair[1])[:2])
        self._merge_points()

    def _fold(self, lower: str, child: str) -> bool:
        core = self._core
        for uid in (lower, child):
            point = points.of_layer(core.catalog.reader(), uid)
            if point is not None:
                history.record_delta(core, point.uid)
        if not core.pool.has_reserve(min(core.pool.allocated_bytes(lower), core.pool.allocated_bytes(child))):
            # A fold needs room for a while before it gives some back; a later round tries it again.
            return False
        with core.pins.alone((lower, child)) as alone:
            if not alone:
                core.postpone((lower, child), layer=lower)
                return False
            intent = fold.begin(core, lower, child)
            if intent is None:
                return False
            self._jobs.run_now(intent)
        core.sweep()
        _log.info("folded", extra={"lower": lower, "child": child})
        return True

    def _run_fold(self, intent: model.Intent) -> None:
        """Go on with a fold that failed, say for want of space."""
        with self._core.pins.alone((intent.payload[fold.LOWER], intent.payload[fold.CHILD])) as alone:
            if alone:
                self._jobs.run_now(intent)
        self._core.sweep()

    # --- archive ------------------------------------------------------------------------------------------------------

    def _collect_all(self, dirty: set[str]) -> None:
        """Collect environments, until the archive turns out to be away: the next round finds what is left."""
        while dirty and self._paused() is None:
            environment_uid = dirty.pop()
            try:
                self._collector.collect(environment_uid)
            except _ARCHIVE_AWAY as error:
                self._say_away(error)
                dirty.clear()
            except errors.SnapdError as error:
                # A manifest that can't be read, say: nothing of this one is collected, which is no reason for others.
                _log.warning("not collected: %s", error, extra={"environment": environment_uid})

    def _say_away(self, error: errors.SnapdError) -> None:
        _log.warning("the archive can't be looked after now: %s", error)

    def stop(self) -> None:
        """End the thread; a fold under way is finished first."""
        self._core.hints.stop()
        if self._thread.ident is not None:
            self._thread.join()
