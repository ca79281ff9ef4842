"""Backups of the catalog into the archive: the background thread that makes them and lets go of those that are old.

One is made at the start, and then whenever something has happened in the catalog and the interval has passed since the
last one. It is no work of the archiver: no snapshot waits for it, and no pause holds it. What a backup is in the
archive is `catalogarea`'s business.
"""

import dataclasses
import datetime
import logging
import threading
from typing import Final

from snapd import errors, fsops, model
from snapd.catalog import copying
from snapd.copier import control as controls
from snapd.service import catalogarea, problems
from snapd.service import core as cores
from snapd.service.intents import archive

KIND: Final = "catalog_backup"
STRETCH: Final = 20
"""So many times as long as a backup took passes before the next one, at least."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """How far the backups are."""

    newest: datetime.datetime | None = None
    """When the newest one was made, as far as is known."""
    problem: model.Problem | None = None
    """Why the next one can't be made."""


class Backups:
    """The thread."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core
        self._scratch = core.settings.catalog_path.with_name(f"{core.settings.catalog_path.name}.backup")
        self._changed = threading.Condition()
        self._stopping = False
        self._revision = 0
        """The newest one that was heard of."""
        self._saved = -1
        """The revision that is in the archive, once that is known."""
        self._next = core.now()
        self._failures = 0
        self._known: dict[str, catalogarea.Backup] = {}
        """What was read of backups that there are: they don't change."""
        self._state = State()
        self._thread = threading.Thread(target=self._loop, name="backup")

    def start(self) -> None:
        """Begin, unless the settings say that there are to be no backups."""
        if self._core.settings.catalog_backup_interval:
            self._core.catalog.subscribe(self._heard)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; a backup under way is given up between two blocks. The controls must have been told."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def state(self) -> State:
        """Return how far the backups are; asks nobody."""
        return self._state

    def _heard(self, revision: int) -> None:
        with self._changed:
            self._revision = max(self._revision, revision)
            self._changed.notify_all()

    # --- when ---------------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while self._wait():
            try:
                self._try()
            except controls.Stopped:
                return
            except Exception:
                # The end of a thread is a boundary: whatever goes wrong, backups must go on being made.
                _log.exception("the backup of the catalog was interrupted; it is tried again")
                self._put_off()

    def _wait(self) -> bool:
        """Wait until a backup is due; False when it is time to stop."""
        core = self._core
        with self._changed:
            while not self._stopping:
                news = self._revision > self._saved
                if news and core.now() >= self._next:
                    return True
                # Without news there is nothing to wait for but a commit.
                core.clock.wait(self._changed, self._next if news else None)
            return False

    def _try(self) -> None:
        """Make a backup, and settle when the next one may be made. Raises controls.Stopped."""
        core = self._core
        began = core.now()
        try:
            with core.controls.running(KIND, cores.CATALOG_AREA) as control:
                made = self._back_up(control)
        except errors.SnapdError as error:
            _log.warning("the catalog can't be backed up now: %s", error)
            self._state = dataclasses.replace(self._state, problem=problems.describe(error))
            self._put_off()
            return
        ended = core.now()
        self._failures = 0
        if made:
            self._next = max(began + core.settings.catalog_backup_interval, ended + STRETCH * (ended - began))

    def _put_off(self) -> None:
        self._failures += 1
        self._next = self._core.now() + archive.backoff(self._core, self._failures)

    # --- what ---------------------------------------------------------------------------------------------------------

    def _back_up(self, control: controls.Control) -> bool:
        """Put what has happened into the archive, if it isn't there; say whether that was so."""
        core = self._core
        control.check()
        copying.discard(self._scratch)
        try:
            copying.copy(core.settings.catalog_path, self._scratch)
            revision = copying.revision(self._scratch)
            # A catalog in which nothing has happened is worth nothing.
            made = revision > 0 and self._put(revision, control)
        finally:
            copying.discard(self._scratch)
        self._state = State(self._let_go())
        self._saved = revision
        return made

    def _put(self, revision: int, control: controls.Control) -> bool:
        """Put the copy into the archive, unless it is there; say whether it wasn't."""
        core = self._core
        fsops.point("backup.copied")
        newest = next(iter(catalogarea.names(core.repository)), None)
        there = 0 if newest is None else catalogarea.revision_of(newest)
        if there > revision:
            raise errors.CatalogBehind(revision=revision, backup_revision=there)
        if there == revision:
            return False
        made = catalogarea.record(core.repository, self._scratch, core.now(), core.archive_pace, control)
        self._known[made.name] = made
        _log.info("backed up the catalog", extra={"backup": made.name, "bytes": made.size_bytes})
        return True

    def _let_go(self) -> datetime.datetime | None:
        """Delete the backups that need not be kept, and return when the newest one was made."""
        core = self._core
        names = catalogarea.names(core.repository)
        self._known = {name: known for name, known in self._known.items() if name in names}
        damaged = [name for name in names if not self._is_readable(name)]
        gone = [backup.name for backup in catalogarea.superseded(self._known.values(), core.now())]
        # As long as one can't be read nothing of them is collected; the newest of all is left for people to look at.
        gone += [name for name in damaged if any(name < known for known in self._known)]
        for name in gone:
            core.repository.delete_snapshot(cores.CATALOG_AREA, name)
            self._known.pop(name, None)
        if gone:
            core.hints.environment(cores.CATALOG_AREA)
        return max((backup.created for backup in self._known.values()), default=None)

    def _is_readable(self, name: str) -> bool:
        if name not in self._known:
            try:
                self._known[name] = catalogarea.look(self._core.repository, name)
            except errors.Corrupt as error:
                _log.error("a backup of the catalog is damaged: %s", error, extra={"backup": name})
                return False
        return True
