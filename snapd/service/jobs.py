"""Runs intents: at once in the caller's thread, or as accepted work on threads of its own; and undoes what fails.

An intent's kind says which handler knows its steps. A handler's `run` may be run again from the start at any time, and
ends with the transaction that makes the outcome visible and closes the intent. Whatever stops it short of that, a
SIGKILL included, leaves the intent open, for the next start.
"""

import concurrent.futures
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

from snapd import errors, fsops, model
from snapd.catalog import db, journal, operations
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import problems

_log = logging.getLogger(__name__)

WORKERS = 2
"""Pieces of accepted work that run at a time; each brings its own copier threads."""

INLINE = "inline"
"""Payload key of an intent whose caller waits for the outcome: if it fails, nothing was ever accepted."""


class Undecided(Exception):
    """A change can be neither finished nor undone for now: its intent stays open until somebody decides it."""

    def __init__(self, error: errors.SnapdError) -> None:
        """Take what the caller is told."""
        super().__init__(str(error))
        self.error = error


class Handler(Protocol):
    """The steps of one kind of intent."""

    reversible: bool
    """False where files are changed in place, so that only going on is right: `undo` is never called."""

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Do all steps and commit."""
        ...

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Take back what the intent's own transaction made visible; files go by dooming their layers."""
        ...


class Jobs:
    """The runner."""

    def __init__(self, core: cores.Core, handlers: Mapping[str, Handler]) -> None:
        self._core = core
        self._handlers = handlers
        self._executor = concurrent.futures.ThreadPoolExecutor(WORKERS, "job")

    def run_now(self, intent: model.Intent) -> None:
        """Run an intent in this thread. If it fails it is undone, and the error raised."""
        with self._core.controls.running(intent.kind, intent.subject) as control:
            self._run(intent, control)

    def submit(self, intent: model.Intent, executor: concurrent.futures.Executor | None = None) -> None:
        """Run an intent in the background, on another's threads if they are given.

        If it fails it is undone, and its operation has the error.
        """
        # Its reins are there from now on, so that work which waits for a thread can be cancelled too.
        reins = ExitStack()
        control = reins.enter_context(self._core.controls.running(intent.kind, intent.subject))

        def work() -> None:
            with reins:
                try:
                    self._run(intent, control)
                except controls.Stopped:
                    _log.info("%s parked until the next start", intent.kind, extra={"subject": intent.subject})
                except errors.SnapdError as error:
                    _log.warning("%s failed: %s", intent.kind, error, extra={"subject": intent.subject})

        (executor or self._executor).submit(work)

    def _run(self, intent: model.Intent, control: controls.Control) -> None:
        handler = self._handlers[intent.kind]
        try:
            with fsops.translated(self._core.pool.root):
                fsops.point(f"{intent.kind}.begun")
                handler.run(intent, control)
        except controls.Stopped as stopped:
            if stopped.parked:
                raise
            name = operation_name(self._core, intent)
            self._fail(handler, intent, errors.OperationCancelled(name=name), stopped)
        except Undecided as undecided:
            raise undecided.error from undecided.__cause__
        except errors.SnapdError as error:
            self._fail(handler, intent, error, error.__cause__)
        except Exception as error:
            # A fault of ours must not leave a resource in a working state for ever; the log has the traceback.
            _log.exception("%s failed unexpectedly", intent.kind)
            self._fail(handler, intent, errors.SnapdError(), error)

    def _fail(
        self, handler: Handler, intent: model.Intent, error: errors.SnapdError, cause: BaseException | None
    ) -> None:
        """Undo an intent and raise the error, unless the outcome is committed: then only tidying up has failed."""
        if not journal.is_open(self._core.catalog.reader(), intent):
            _log.warning("%s is done, but tidying up failed: %s", intent.kind, error, extra={"subject": intent.subject})
            return
        if handler.reversible:
            self._undo(handler, intent, error)
        raise error from cause

    def give_up(self, intent: model.Intent, error: errors.SnapdError) -> None:
        """Undo an intent that isn't run any more, because of an error."""
        self._undo(self._handlers[intent.kind], intent, error)

    def _undo(self, handler: Handler, intent: model.Intent, error: errors.SnapdError) -> None:
        problem = problems.describe(error)
        with self._core.catalog.transaction() as tx:
            handler.undo(tx, intent, problem)
            journal.close_intent(tx, intent)
            if intent.operation:
                if INLINE in intent.payload:
                    operations.withdraw(tx, intent.operation)
                else:
                    operations.end(tx, intent.operation, self._core.now(), problem)
        self._core.sweep()

    def stop(self) -> None:
        """Wait until the work under way has ended or is parked. The controls must have been told before."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def operation_name(core: cores.Core, intent: model.Intent) -> str:
    """Return what to call the work of an intent when it is talked about."""
    operation = operations.by_uid(core.catalog.reader(), intent.operation)
    return intent.kind if operation is None else f"environments/{operation.environment}/operations/{operation.id}"
