"""The scrubber: the background thread that reads the archive again, so that damage is found before somebody needs it.

It works off what wasn't checked within the interval, what was checked longest ago first, at a pace of its own; then it
notes with each archived snapshot how old the oldest check of it is, and which ones damage hits.
"""

import dataclasses
import datetime
import logging
import threading

from snapd import errors, model
from snapd.archive import scrub as scrubs
from snapd.archive.backends import backend, paced
from snapd.catalog import snapshots
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import work as working

_log = logging.getLogger(__name__)

KIND = "scrub"
LOOK = datetime.timedelta(minutes=10)
"""How often it looks for packs whose check is due."""


class Scrubber:
    """The thread."""

    def __init__(self, core: cores.Core, store: backend.Backend, work: working.Work) -> None:
        """Read what `store`, the archive's own, holds."""
        self._core = core
        self._store = store
        self._work = work
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="scrubber")

    def start(self) -> None:
        """Begin, unless the archive is never to be scrubbed."""
        if self._core.settings.scrub_interval:
            self._thread.start()

    def stop(self) -> None:
        """End the thread, between two packs, or within one if it waits for its pace."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _loop(self) -> None:
        core = self._core
        while True:
            try:
                if self._work.obey(model.Worker.KEEPER) is None:
                    self.look()
            except controls.Stopped:
                return
            except (errors.Unavailable, errors.FailedPrecondition) as error:
                _log.warning("the archive can't be scrubbed now: %s", error)
            except Exception:
                # The end of a thread is a boundary: whatever goes wrong, damage must go on being looked for.
                _log.exception("the scrubber was interrupted; it goes on with its next look")
            until = core.now() + LOOK
            with self._changed:
                while not self._stopping and core.now() < until:
                    core.clock.wait(self._changed, until)
                if self._stopping:
                    return

    def look(self) -> None:
        """Check all that is due, of each environment. Raises controls.Stopped, errors.ArchiveUnreachable."""
        for environment_uid in self._core.repository.environments():
            self.scrub(environment_uid)

    def scrub(self, environment_uid: str) -> None:
        """Check what is due of one environment, and note what came of it."""
        core = self._core
        with core.controls.running(KIND, environment_uid) as control:
            store = paced.PacedBackend(self._store, core.scrub_pace, control.wait)
            due_before = core.now() - core.settings.scrub_interval
            checked = 0
            for found in core.repository.upkeep.scrub(environment_uid, due_before, control.check, store):
                checked += 1
                if found.problem:
                    extra = {"environment": environment_uid, "pack": found.pack_id.hex()}
                    _log.error("the archive is damaged: %s", found.problem, extra=extra)
        if checked:
            note(core, environment_uid)


def note(core: cores.Core, environment_uid: str) -> list[scrubs.Damage]:
    """Note with an environment's snapshots when they were checked, and which are damaged; return the damage."""
    upkeep = core.repository.upkeep
    damages = {damage.snapshot_uid: damage for damage in upkeep.damage(environment_uid)}
    for damage in damages.values():
        _log.error("an archived snapshot is damaged", extra={"snapshot": damage.snapshot_uid, "ranges": damage.ranges})
    for uid, checked in upkeep.oldest_checks(environment_uid).items():
        health = model.HealthState.DAMAGED if uid in damages else model.HealthState.OK
        with core.catalog.transaction() as tx:
            snapshot = snapshots.by_uid(tx.connection, uid)
            if snapshot is None or snapshot.archive.state is not model.ArchiveState.ARCHIVED:
                continue
            if snapshot.health is not health:
                noted = dataclasses.replace(snapshot.archive, checked=checked)
                snapshots.put(tx, dataclasses.replace(snapshot, health=health, archive=noted, updated=core.now()))
            else:
                # No change of the snapshot: nobody who watches is told, and its etag stays.
                snapshots.note_check(tx, uid, checked)
    return list(damages.values())
