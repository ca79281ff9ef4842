"""The archiver: the background thread that carries snapshots to the archive when they are due.

It sleeps until the next due time or until a commit wakes it, and keeps a bounded number of runs going, the soonest due
first. A run that is parked leaves its intent open, and the next start takes it up again.
"""

import concurrent.futures
import dataclasses
import datetime
import logging
import threading

from snapd import errors, model
from snapd.catalog import journal, snapshots
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import jobs as running
from snapd.service.intents import archive

_LOOK_AGAIN_S = 0.1

_log = logging.getLogger(__name__)


class Archiver:
    """The thread and its workers."""

    def __init__(self, core: cores.Core, jobs: running.Jobs) -> None:
        self._core = core
        self._jobs = jobs
        self._changed = threading.Condition()
        self._stopping = False
        self._news = False
        self._runs: dict[str, concurrent.futures.Future[None]] = {}
        self._executor = concurrent.futures.ThreadPoolExecutor(core.settings.archive_workers, "archive")
        self._thread = threading.Thread(target=self._loop, name="archiver")

    def start(self) -> None:
        """Begin."""
        self._core.catalog.subscribe(self._wake)
        self._thread.start()

    def _wake(self, _revision: int) -> None:
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            try:
                until = self._begin_due()
            except Exception:
                # The end of a thread is a boundary: whatever goes wrong, snapshots must go on being archived.
                _log.exception("the archiver can't read its queue; it tries again")
                until = self._core.now() + self._core.settings.retry_initial
            with self._changed:
                if not self._news and not self._stopping:
                    self._core.clock.wait(self._changed, until)
                self._news = False
                if self._stopping:
                    return

    def _begin_due(self) -> datetime.datetime | None:
        """Begin what is due, as far as there are workers, and return when to look again at the latest."""
        core = self._core
        for snapshot in snapshots.waiting(core.catalog.reader(), core.settings.archive_workers + 1):
            due = snapshot.archive.next_attempt
            if due is None or due > core.now():
                return due
            with self._changed:
                if self._stopping or len(self._runs) >= core.settings.archive_workers:
                    return None
            self._begin(snapshot.uid)
        return None

    def _begin(self, uid: str) -> None:
        core = self._core
        with core.catalog.transaction() as tx:
            snapshot = snapshots.by_uid(tx.connection, uid)
            if snapshot is None or snapshot.archive.next_attempt is None:
                return
            state = dataclasses.replace(
                snapshot.archive,
                state=model.ArchiveState.ARCHIVING,
                next_attempt=None,
                attempts=snapshot.archive.attempts + 1,
            )
            snapshots.put(tx, dataclasses.replace(snapshot, archive=state, updated=core.now()))
            intent = journal.open_intent(tx, archive.KIND, uid, {}, core.now())
        self.take_up(intent)

    def take_up(self, intent: model.Intent) -> None:
        """Run an archive intent: a new one, or one that an earlier process left open."""
        with self._changed:
            self._runs[intent.subject] = self._executor.submit(self._run, intent)

    def _run(self, intent: model.Intent) -> None:
        try:
            self._jobs.run_now(intent)
            _log.info("archived", extra={"snapshot": intent.subject})
        except controls.Stopped:
            _log.info("archiving parked until the next start", extra={"snapshot": intent.subject})
        except errors.SnapdError as error:
            _log.warning("archiving failed: %s", error, extra={"snapshot": intent.subject})
        finally:
            with self._changed:
                self._runs.pop(intent.subject, None)
                self._news = True
                self._changed.notify_all()

    def stop_run(self, snapshot_uid: str) -> None:
        """Cancel the run of a snapshot, if there is one, and return when it has come to rest.

        The caller made sure that no new one begins.
        """
        with self._changed:
            run = self._runs.get(snapshot_uid)
        if run is None:
            return
        if run.cancel():
            # It never began, so it doesn't give its place back itself.
            with self._changed:
                self._runs.pop(snapshot_uid, None)
                self._news = True
                self._changed.notify_all()
            return
        while True:
            control = self._core.controls.find(archive.KIND, snapshot_uid)
            if control is not None:
                control.cancel()
            # The run may not have taken its reins yet: look again until it has, and has come to rest.
            if concurrent.futures.wait([run], timeout=_LOOK_AGAIN_S).done:
                return

    def stop(self) -> None:
        """End the thread and wait for the runs, which were told to park."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._executor.shutdown(wait=True, cancel_futures=True)
