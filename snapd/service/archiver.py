"""The archiver: the background thread that carries snapshots to the archive when they are due.

It sleeps until the next due time or until a commit wakes it, and keeps a bounded number of runs going, in the order of
`catalog.queue`. A run that is parked by the end of the daemon leaves its intent open, and the next start takes it up
again; one that is parked by a pause goes back into the queue.
"""

import collections
import concurrent.futures
import dataclasses
import datetime
import itertools
import logging
import threading

from snapd import errors, model
from snapd.catalog import journal, queue, snapshots
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import jobs as running
from snapd.service import work as working
from snapd.service.intents import archive

_LOOK_AGAIN_S = 0.1

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    """A run that is under way, or waits for a thread."""

    intent: int
    """The intent's number."""
    future: concurrent.futures.Future[None]
    environment_uid: str


class Archiver:
    """The thread and its workers."""

    def __init__(self, core: cores.Core, jobs: running.Jobs, work: working.Work) -> None:
        self._core = core
        self._jobs = jobs
        self._work = work
        self._changed = threading.Condition()
        self._stopping = False
        self._news = False
        self._runs: dict[str, _Run] = {}
        self._turns: dict[str, int] = {}
        self._turn = itertools.count()
        self._executor = concurrent.futures.ThreadPoolExecutor(core.settings.archive_workers, "archive")
        self._thread = threading.Thread(target=self._loop, name="archiver")

    def start(self) -> None:
        """Begin."""
        self._core.catalog.subscribe(self._heard)
        self._work.on_change(self._wake)
        # Before anything is taken up again.
        self._work.obey(model.Worker.ARCHIVER)
        self._thread.start()

    def _heard(self, _revision: int) -> None:
        self._wake()

    def _wake(self) -> None:
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
        reader = self._core.catalog.reader()
        while True:
            pause = self._work.obey(model.Worker.ARCHIVER)
            if pause is not None:
                return pause.until
            busy = self._busy()
            if busy is None:
                # The end of a run is news.
                return None
            now = self._core.now()
            free = [head for head in queue.heads(reader, now) if head.environment_uid not in busy]
            chosen = queue.choose(free, self._turns, now)
            if chosen is None:
                return queue.next_time(reader, now)
            self._turns[chosen.environment_uid] = next(self._turn)
            self._begin(chosen.snapshot_uid)

    def _busy(self) -> set[str] | None:
        """Return the environments that have as many runs as one may have, or None if no run may begin at all."""
        settings = self._core.settings
        with self._changed:
            if self._stopping or len(self._runs) >= settings.archive_workers:
                return None
            counts = collections.Counter(run.environment_uid for run in self._runs.values())
        return {uid for uid, count in counts.items() if count >= settings.archive_workers_per_environment}

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
        self._submit(intent, snapshot.environment_uid)

    def take_up(self, intent: model.Intent) -> None:
        """Run an archive intent that an earlier process left open."""
        snapshot = snapshots.by_uid(self._core.catalog.reader(), intent.subject)
        assert snapshot is not None
        self._submit(intent, snapshot.environment_uid)

    def _submit(self, intent: model.Intent, environment_uid: str) -> None:
        with self._changed:
            self._runs[intent.subject] = _Run(intent.number, self._executor.submit(self._run, intent), environment_uid)

    def _run(self, intent: model.Intent) -> None:
        try:
            self._jobs.run_now(intent)
            _log.info("archived", extra={"snapshot": intent.subject})
        except controls.Stopped:
            if self._core.controls.parked:
                _log.info("archiving parked until the next start", extra={"snapshot": intent.subject})
            else:
                _log.info("archiving parked by a pause", extra={"snapshot": intent.subject})
                archive.put_back(self._core, intent)
        except errors.SnapdError as error:
            _log.warning("archiving failed: %s", error, extra={"snapshot": intent.subject})
        finally:
            with self._changed:
                # What was put back may have been begun anew already.
                if intent.subject in self._runs and self._runs[intent.subject].intent == intent.number:
                    del self._runs[intent.subject]
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
        if run.future.cancel():
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
            if concurrent.futures.wait([run.future], timeout=_LOOK_AGAIN_S).done:
                return

    def stop(self) -> None:
        """End the thread and wait for the runs, which were told to park."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._executor.shutdown(wait=True, cancel_futures=True)
