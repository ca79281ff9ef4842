"""The scrubber: the background thread that reads the archive again, so that damage is found before somebody needs it.

Each pack is read once within the interval, spread over it as evenly as that can be done, at a pace of its own.
Afterwards, and whenever somebody met damage (`suspects`), it notes with each archived snapshot how old the oldest check
of it is, and what damage hits. It keeps nothing but the times of the checks, which are in the archive's index.
"""

import datetime
import logging
import threading

from snapd import clock as clocks
from snapd import errors, model
from snapd.archive import index, scrub
from snapd.archive.backends import paced
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import health
from snapd.service import work as working

_log = logging.getLogger(__name__)

KIND = "scheduled_scrub"
_NOTHING = datetime.timedelta(0)
LOOK = datetime.timedelta(minutes=10)
"""How often it looks for packs whose check is due."""


class _Held(Exception):
    """Somebody paused the keeper's work."""


class Scrubber:
    """The thread."""

    def __init__(self, core: cores.Core, work: working.Work) -> None:
        self._core = core
        self._work = work
        self._rest = clocks.span(core.clock, _NOTHING)
        """Until the next look."""
        self._tried: dict[bytes, clocks.Span] = {}
        """How long packs that are known to be damaged are left alone."""
        self._pending: set[str] = set()
        """Environments whose snapshots' health is to be noted, as soon as the archive can be asked."""
        self._thread = threading.Thread(target=self._loop, name="scrubber")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, between two packs, or within one if it waits for its pace."""
        self._core.suspects.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def _loop(self) -> None:
        core = self._core
        while core.suspects.wait(core.clock, self._rest):
            try:
                self._pending |= core.suspects.take()
                for environment_uid in sorted(self._pending):
                    health.note(core, environment_uid)
                    self._pending.discard(environment_uid)
                if self._rest.is_over(core.now()):
                    self._rest = clocks.span(core.clock, LOOK)
                    if core.settings.scrub_interval:
                        self.look()
            except controls.Stopped:
                return
            except errors.SnapdError as error:
                _log.warning("the archive can't be scrubbed now: %s", error)
            except Exception:
                # The end of a thread is a boundary: whatever goes wrong, damage must go on being looked for.
                _log.exception("the scrubber was interrupted; it goes on with its next look")

    def look(self) -> None:
        """Check what is due now, of each environment. Raises controls.Stopped, errors.ArchiveUnreachable."""
        for environment_uid in self._core.repository.environments():
            if self._is_held():
                return
            self.scrub(environment_uid)

    def _is_held(self) -> bool:
        return self._work.obey(model.Worker.KEEPER) is not None

    def scrub(self, environment_uid: str) -> None:
        """Check what is due now of one environment, and note what came of it. A pause ends it after a pack."""
        core = self._core
        due = self._due(environment_uid)
        if not due:
            return
        with core.controls.running(KIND, environment_uid) as control:

            def check() -> None:
                control.check()
                if self._is_held():
                    raise _Held

            store = paced.PacedBackend(core.repository.store, core.scrub_pace, control.wait)
            try:
                for found in core.repository.upkeep.check(environment_uid, due, check, store):
                    if found.problem:
                        self._tried[found.pack_id] = clocks.span(core.clock, core.settings.scrub_interval)
                        tell_damage(environment_uid, found)
            except _Held:
                _log.info("scrubbing is held by a pause", extra={"environment": environment_uid})
        health.note(core, environment_uid)

    def _due(self, environment_uid: str) -> list[index.Pack]:
        core = self._core
        interval, now = core.settings.scrub_interval, core.now()
        packs = core.repository.upkeep.packs(environment_uid)
        # What is known to be damaged has no time of a check: it is looked at again, but not at each look.
        fresh = [one for one in packs if one.pack_id not in self._tried or self._tried[one.pack_id].is_over(now)]
        return scrub.due_evenly(fresh, now, interval, LOOK)


def tell_damage(environment_uid: str, found: scrub.Scrubbed) -> None:
    """Log what is wrong with a pack."""
    extra = {"environment": environment_uid, "pack": found.pack_id.hex()}
    _log.error("the archive is damaged: %s", found.problem, extra=extra)
