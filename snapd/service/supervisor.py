"""The supervisor: the thread that is woken by the end of a storage daemon, and asks those again that didn't answer.

It decides nothing by itself: what is to be done about a storage daemon says `deciding.Decider.look_after`. Time
is the kernel's monotonic clock, since processes know no other.
"""

import collections
import dataclasses
import logging
import os
import select
import threading
from contextlib import ExitStack

from snapd import clock as clocks
from snapd import errors, model
from snapd.catalog import attachments, storagedaemons
from snapd.live import process as processes
from snapd.service import core as cores
from snapd.service import deciding
from snapd.service.attaching import groups as grouping

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
"""How long after a question that wasn't answered it is asked again: twice as long each time."""
MOST_DEATHS = 3
DEATHS_WITHIN_S = 60.0
"""One that dies so often within such a time stays down."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class _Retry:
    """When a storage daemon is asked again, and how long that was waited for."""

    at_s: float
    delay_s: float


class Supervisor:
    """The thread."""

    def __init__(self, core: cores.Core, decider: deciding.Decider, groups: grouping.Groups) -> None:
        self._core = core
        self._decider = decider
        self._groups = groups
        self._wake = -1
        self._beginning = threading.Lock()
        self._stopping = False
        self._retries: dict[str, _Retry] = {}
        self._deaths: dict[str, collections.deque[float]] = {}
        self._thread = threading.Thread(target=self._loop, name="supervisor")

    def start(self) -> None:
        """Begin as soon as there is a storage daemon. Where nothing is attached there is no thread."""
        self._groups.on_change(self._nudge)
        if storagedaemons.every(self._core.catalog.reader()):
            self._nudge()

    def stop(self) -> None:
        """End the thread, once it has done what it is at. No storage daemon is asked anything any more."""
        with self._beginning:
            self._stopping = True
        if self._wake == -1:
            return
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def _nudge(self) -> None:
        """Have the thread look at what there is, begun if it wasn't."""
        with self._beginning:
            if self._stopping:
                return
            if self._wake == -1:
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._thread.start()
            os.eventfd_write(self._wake, 1)

    def _loop(self) -> None:
        while not self._stopping:
            try:
                for uid in self._wait():
                    self._look_after(uid)
            except Exception:
                # The end of a thread is a boundary; what it was at is looked at again when something happens, or soon.
                _log.exception("a storage daemon could not be looked after")
                select.select([self._wake], [], [], FIRST_RETRY_S)

    def _wait(self) -> list[str]:
        """Wait until one ends or is to be asked again, or they change; return the uids of those to be looked after."""
        with ExitStack() as stack:
            poller = select.poll()
            poller.register(self._wake, select.POLLIN)
            ended, watched = [], {}
            for daemon in self._serving():
                process = self._find(daemon)
                if process is None:
                    ended.append(daemon.uid)
                    continue
                stack.callback(process.close)
                poller.register(process.fileno(), select.POLLIN)
                watched[process.fileno()] = daemon.uid
            ready = poller.poll(self._timeout_ms([uid for uid in ended if uid not in self._retries]))
        if any(fd == self._wake for fd, _ in ready):
            os.eventfd_read(self._wake)
        for uid in (watched[fd] for fd, _ in ready if fd in watched):
            # Its end is what there was to wait for.
            self._retries.pop(uid, None)
            ended.append(uid)
        now_s = clocks.monotonic_s()
        due = {uid for uid, retry in self._retries.items() if retry.at_s <= now_s}
        return sorted(due.union(uid for uid in ended if uid not in self._retries))

    def _serving(self) -> list[model.StorageDaemon]:
        """Return the storage daemons that should be there, and plan to ask those again that didn't answer."""
        reader = self._core.catalog.reader()
        found = [
            daemon
            for daemon in storagedaemons.every(reader)
            if any(
                attachment.state is not model.AttachmentState.CRASHED
                for attachment in attachments.of_daemon(reader, daemon.uid)
            )
        ]
        for daemon in found:
            if self._groups.trouble(daemon.uid) is not None and daemon.uid not in self._retries:
                self._put_off(daemon.uid)
        there = {daemon.uid for daemon in found}
        self._retries = {uid: retry for uid, retry in self._retries.items() if uid in there}
        self._deaths = {uid: deaths for uid, deaths in self._deaths.items() if uid in there}
        return found

    def _find(self, daemon: model.StorageDaemon) -> processes.Process | None:
        named = grouping.identity(daemon)
        return None if named is None else processes.find(named)

    def _timeout_ms(self, ended: list[str]) -> float | None:
        if ended:
            return 0
        at_s = min((retry.at_s for retry in self._retries.values()), default=None)
        return None if at_s is None else max(0.0, at_s - clocks.monotonic_s()) * 1000

    def _put_off(self, uid: str) -> None:
        earlier = self._retries.get(uid)
        delay_s = FIRST_RETRY_S if earlier is None else min(2 * earlier.delay_s, LONGEST_RETRY_S)
        self._retries[uid] = _Retry(clocks.monotonic_s() + delay_s, delay_s)

    def _look_after(self, uid: str) -> None:
        try:
            self._decider.look_after(uid, revive=self._may_revive(uid))
        except errors.SnapdError as error:
            _log.warning("a storage daemon is in trouble: %s", error, extra={"storage_daemon": uid})
            self._groups.note(uid, error)
            self._put_off(uid)
        else:
            self._groups.note(uid, None)
            self._retries.pop(uid, None)

    def _may_revive(self, uid: str) -> bool:
        """Count a death, if it is one, and say whether there were few of them lately."""
        daemon = storagedaemons.find(self._core.catalog.reader(), uid)
        deaths = self._deaths.setdefault(uid, collections.deque(maxlen=MOST_DEATHS))
        if daemon is None or not daemon.boot or self._find(daemon) is not None:
            return True
        deaths.append(clocks.monotonic_s())
        return len(deaths) < MOST_DEATHS or deaths[-1] - deaths[0] > DEATHS_WITHIN_S
