"""The host's clock was set back: what waits for a moment that it set would wait for as long as that, too.

A clock that was ahead by a year leaves behind snapshots that are due in a year, retries, pauses and uploads that end
then. Whatever lies further away than the rule allows by which it was set is brought as near as the rule has it. That is
done at start, since nobody knows what the clock did before, and whenever it is seen to go back. The times that
resources show of their past stay as they are: nobody knows better ones.

A clock that is set forward needs nothing of the kind: what waits is over earlier than it should be, once.
"""

import dataclasses
import datetime
import logging
import threading

from snapd import model
from snapd.catalog import db, environments, journal, pauses, queue, snapshots
from snapd.service import core as cores
from snapd.service.intents import archive

SLACK = datetime.timedelta(minutes=1)
"""By so much clocks are corrected without anybody noticing."""

_log = logging.getLogger(__name__)


def settle(core: cores.Core) -> int:
    """Bring near what a clock that was set back has put too far away, and return how much that was."""
    with core.catalog.transaction() as tx:
        now = core.now()
        count = _settle_snapshots(tx, core, now) + _settle_uploads(tx, core, now) + _settle_pauses(tx, now)
    if count:
        _log.warning("the clock was set back; %d waits were cut to what they should be", count)
    return count


def _settle_snapshots(tx: db.Transaction, core: cores.Core, now: datetime.datetime) -> int:
    count = 0
    for uid in queue.too_far(tx.connection, now + SLACK, now + archive.longest_backoff(core)):
        snapshot = snapshots.by_uid(tx.connection, uid)
        assert snapshot is not None
        due, next_attempt = snapshot.archive.due, snapshot.archive.next_attempt
        assert due is not None
        assert next_attempt is not None
        if snapshot.captured > now:
            due = min(due, now + _retention(tx, core, snapshot))
        # What failed, or is waited for, is tried at once, and all else when it is due. None is put off.
        hurried = snapshot.archive.error is not None or snapshot.archive.urgent
        next_attempt = min(next_attempt, now if hurried else max(due, now))
        changed = dataclasses.replace(snapshot.archive, due=due, next_attempt=next_attempt)
        if changed != snapshot.archive:
            snapshots.put(tx, dataclasses.replace(snapshot, archive=changed, updated=now))
            count += 1
    return count


def _retention(tx: db.Transaction, core: cores.Core, snapshot: model.Snapshot) -> datetime.timedelta:
    if not snapshot.rapid:
        return datetime.timedelta(0)
    if snapshot.retention is not None:
        return snapshot.retention
    environment = environments.by_uid(tx.connection, snapshot.environment_uid)
    assert environment is not None
    return core.settings.default_retention if environment.retention is None else environment.retention


def _settle_uploads(tx: db.Transaction, core: cores.Core, now: datetime.datetime) -> int:
    latest = now + core.settings.upload_expiry
    late = [row for row in journal.uploads(tx.connection) if row.expires > latest + SLACK]
    for row in late:
        journal.advance_upload(tx, row.volume_uid, row.durable_offset, latest)
    return len(late)


def _settle_pauses(tx: db.Transaction, now: datetime.datetime) -> int:
    count = 0
    for worker in model.Worker:
        pause = pauses.find(tx.connection, worker, now)
        if pause is not None and pause.until is not None and pause.since > now + SLACK:
            pauses.put(tx, worker, dataclasses.replace(pause, since=now, until=now + (pause.until - pause.since)))
            count += 1
    return count


class Watch:
    """The thread that looks whether the clock goes back."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="clock-watch")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _loop(self) -> None:
        core = self._core
        latest = core.now()
        while self._wait():
            now = core.now()
            if now < latest - SLACK:
                try:
                    settle(core)
                except Exception:
                    # The end of a thread is a boundary: the next start does it.
                    _log.exception("what waits was not looked through after the clock was set back")
            latest = now

    def _wait(self) -> bool:
        with self._changed:
            if not self._stopping:
                self._core.clock.wait(self._changed, None)
            return not self._stopping
