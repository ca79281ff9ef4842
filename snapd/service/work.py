"""Pausing and resuming the background work: a pause is in the catalog, so it outlives the daemon.

Owns which work is held, and who said so; the workers themselves ask `obey` before they begin anything. What the
archiver has under way when it is paused is parked at once; what the keeper has under way is finished first.
"""

import dataclasses
import datetime
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Final

from snapd import model
from snapd.catalog import pauses, queue
from snapd.service import core as cores
from snapd.service import lookup
from snapd.service.intents import archive, fold

_KINDS: Final[Mapping[model.Worker, str]] = {model.Worker.ARCHIVER: archive.KIND, model.Worker.KEEPER: fold.KIND}
_PARKABLE: Final = frozenset({model.Worker.ARCHIVER})
"""Workers whose running work stops between any two pieces; a merge of layers is only ever finished."""


@dataclasses.dataclass(frozen=True, slots=True)
class WorkState:
    """What a worker does, and what keeps it from it."""

    worker: model.Worker
    pause: model.Pause | None
    running: int
    """Archive runs, or merges of layers, that are under way."""
    waiting: int
    """Snapshots that are due and wait; the keeper counts nothing."""


class Work:
    """The background work as a whole."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core
        self._obeying = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call listener after each pause and each resumption. It must not block."""
        self._listeners.append(listener)

    def pause(
        self,
        request: model.Request,
        workers: Collection[model.Worker],
        reason: str,
        duration: datetime.timedelta | None,
    ) -> list[WorkState]:
        """Hold some workers, or all if none is named, until they are resumed or a time has passed.

        One that is paused already is paused anew. Raises errors.RequestIdReused.
        """
        now = self._core.now()
        pause = model.Pause(reason, request.identity, now, None if duration is None else now + duration)
        with self._core.catalog.transaction() as tx:
            if lookup.earlier(tx.connection, request) is None:
                for worker in workers or tuple(model.Worker):
                    pauses.put(tx, worker, pause)
                lookup.remember(tx, request, "", now)
        return self._changed()

    def resume(self, request: model.Request, workers: Collection[model.Worker]) -> list[WorkState]:
        """Let some workers go on, or all if none is named. Raises errors.RequestIdReused."""
        with self._core.catalog.transaction() as tx:
            if lookup.earlier(tx.connection, request) is None:
                for worker in workers or tuple(model.Worker):
                    pauses.remove(tx, worker)
                lookup.remember(tx, request, "", self._core.now())
        return self._changed()

    def _changed(self) -> list[WorkState]:
        for worker in model.Worker:
            self.obey(worker)
        for listener in self._listeners:
            listener()
        return self.states()

    def obey(self, worker: model.Worker) -> model.Pause | None:
        """Return the pause that holds a worker, if one does. Its running work is parked then, and free to begin if not.

        The worker calls it before it begins anything: a pause may also end by the time that passes.
        """
        core = self._core
        # Two that ask at once must not apply what they read in the other order.
        with self._obeying:
            pause = pauses.find(core.catalog.reader(), worker, core.now())
            if worker in _PARKABLE:
                if pause is None:
                    core.controls.resume(_KINDS[worker])
                else:
                    core.controls.pause(_KINDS[worker])
        return pause

    def states(self) -> list[WorkState]:
        """Return what all workers do, and what keeps them from it."""
        core = self._core
        reader, now = core.catalog.reader(), core.now()
        return [
            WorkState(
                worker=worker,
                pause=pauses.find(reader, worker, now),
                running=core.controls.count(kind),
                waiting=queue.due_count(reader, now) if worker is model.Worker.ARCHIVER else 0,
            )
            for worker, kind in _KINDS.items()
        ]
