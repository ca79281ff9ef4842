"""The archive's upkeep when somebody asks for it: checks of an environment or a snapshot, and collections.

Each is accepted work with an operation. It runs on threads of its own, so that hours of reading keep nobody's volume
waiting; what the scrubber and the keeper do by themselves goes on beside it.
"""

import concurrent.futures
from collections.abc import Mapping
from typing import Final

from snapd import errors, model
from snapd.catalog import db, environments, journal, operations
from snapd.service import core as cores
from snapd.service import jobs as running
from snapd.service import lookup, names, states
from snapd.service.intents import collect, scrub

WORKERS: Final = 2
"""Checks and collections that run at a time."""

KINDS: Final[Mapping[str, str]] = {
    "Scrub": scrub.ENVIRONMENT,
    "VerifySnapshot": scrub.SNAPSHOT,
    "Collect": collect.KIND,
}
"""The kind of intent of each method."""


class Upkeep:
    """What callers can ask for."""

    def __init__(self, core: cores.Core, jobs: running.Jobs) -> None:
        self._core = core
        self._jobs = jobs
        self._executor = concurrent.futures.ThreadPoolExecutor(WORKERS, "upkeep")

    def of_environments(self, request: model.Request, environment_id: str) -> list[model.Operation]:
        """Begin the request's method, Scrub or Collect, on an environment, or for '-' on all.

        Where it is under way already, its operation is returned. Raises errors.NotFound, errors.RequestIdReused.
        """
        core = self._core
        begun: list[model.Intent] = []
        found: list[model.Operation] = []
        with core.catalog.transaction() as tx:
            reader = tx.connection
            every = environment_id == "-"
            chosen = environments.every(reader) if every else [lookup.environment(reader, environment_id)]
            for environment in chosen:
                name = names.environment(environment.id)
                operation, intent = self._begin(tx, request, environment, name, environment.uid)
                found.append(operation)
                begun += [] if intent is None else [intent]
        for intent in begun:
            self.submit(intent)
        return [core.with_progress(operation) for operation in found]

    def verify(
        self, request: model.Request, environment_id: str, snapshot_id: str, etag: str
    ) -> tuple[model.Snapshot, model.Operation]:
        """Begin to check all that an archived snapshot consists of. If that is under way, its operation is returned.

        Raises errors.NotFound, errors.EtagMismatch, errors.WrongState, errors.SnapshotNotArchived,
        errors.RequestIdReused.
        """
        core = self._core
        with core.catalog.transaction() as tx:
            snapshot = lookup.snapshot(tx.connection, environment_id, snapshot_id)
            name = names.snapshot(environment_id, snapshot_id)
            if lookup.earlier(tx.connection, request) is None:
                lookup.require_etag(name, snapshot.revision, etag)
                states.require_snapshot("VerifySnapshot", name, snapshot.state)
                if snapshot.archive.state is not model.ArchiveState.ARCHIVED:
                    raise errors.SnapshotNotArchived(name=name)
            environment = lookup.environment(tx.connection, environment_id)
            operation, intent = self._begin(tx, request, environment, name, snapshot.uid)
        if intent is not None:
            self.submit(intent)
        return snapshot, core.with_progress(operation)

    def _begin(
        self, tx: db.Transaction, request: model.Request, environment: model.Environment, name: str, uid: str
    ) -> tuple[model.Operation, model.Intent | None]:
        """Return the operation of a method on a resource, and its intent if there was none before."""
        core = self._core
        # A request for all environments is remembered with each.
        own = model.Request(request.identity, request.method, environment.id, request.request_id, request.digest)
        earlier = lookup.earlier(tx.connection, own)
        if earlier is not None and earlier[1] is not None:
            return earlier[1], None
        for running_one in operations.running_on(tx.connection, uid):
            if running_one.method == request.method:
                operations.insert_request(tx, own, uid, running_one.uid, core.now())
                return running_one, None
        operation = lookup.accept(tx, own, core.new_operation(request.method, environment, name, uid), uid)
        return operation, journal.open_intent(tx, KINDS[request.method], uid, {}, core.now(), operation.uid)

    def submit(self, intent: model.Intent) -> None:
        """Run an intent of one of the KINDS, a new one or one that an earlier process left."""
        self._jobs.submit(intent, self._executor)

    def stop(self) -> None:
        """Wait until the work under way is parked. The controls must have been told before."""
        self._executor.shutdown(wait=True, cancel_futures=True)
