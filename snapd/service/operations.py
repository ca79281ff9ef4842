"""Operations: what callers can watch of accepted work, and how they stop it."""

from snapd import errors, model
from snapd.catalog import db, journal, operations, snapshots
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import jobs as running
from snapd.service import lookup, names, problems, uploads
from snapd.service import snapshots as snapshot_service
from snapd.service.intents import import_volume


class Operations:
    """The operations of all environments."""

    def __init__(self, core: cores.Core, jobs: running.Jobs, active_uploads: uploads.Active) -> None:
        self._core = core
        self._jobs = jobs
        self._active_uploads = active_uploads

    def get(self, environment_id: str, operation_id: str) -> model.Operation:
        """Return an operation, with its progress. Raises errors.NotFound."""
        found = operations.find(self._core.catalog.reader(), environment_id, operation_id)
        if found is None:
            name = names.operation(environment_id, operation_id)
            raise errors.NotFound(resource_type="operation", name=name)
        return self._core.with_progress(found)

    def list(self, query: model.Query) -> model.Page[model.Operation]:
        """Return one page. Raises errors.NotFound, errors.InvalidFilter, errors.InvalidPageToken."""
        reader = self._core.catalog.reader()
        page = operations.page(reader, query, lookup.scope(reader, query))
        return model.Page(tuple(map(self._core.with_progress, page.items)), page.next_page_token)

    def cancel(self, environment_id: str, operation_id: str) -> None:
        """Ask the work to stop and be undone. What is done, or is a deletion, goes on to its end.

        Raises errors.NotFound.
        """
        operation = self.get(environment_id, operation_id)
        if operation.done:
            return
        match operation.method:
            case "CreateSnapshot":
                self._delete_snapshot(operation)
            case "ArchiveSnapshot":
                self._stop_archiving(operation)
            case "ImportVolume":
                self._discard_upload(operation)
            case "CreateVolume" | "RevertVolume" | "Scrub" | "VerifySnapshot":
                control = self._control(operation)
                if control is not None:
                    control.cancel()

    def _control(self, operation: model.Operation) -> controls.Control | None:
        return self._core.controls.find(cores.WORK_OF_METHOD[operation.method], operation.target_uid)

    def _delete_snapshot(self, operation: model.Operation) -> None:
        """Undo a regular snapshot that isn't archived yet: it goes, and the deletion ends its operation."""
        with self._core.catalog.transaction() as tx:
            snapshot = snapshots.by_uid(tx.connection, operation.target_uid)
            if snapshot is None or snapshot.state is not model.SnapshotState.IN_PROGRESS:
                return
            intent, _ = snapshot_service.begin_deletion(tx, self._core, snapshot, "")
        self._jobs.submit(intent)

    def _stop_archiving(self, operation: model.Operation) -> None:
        """Have a snapshot wait for its due time again; a run under way puts it back itself when it stops."""
        core = self._core
        control = self._control(operation)
        with core.catalog.transaction() as tx:
            snapshot = snapshots.by_uid(tx.connection, operation.target_uid)
            if snapshot is None or not snapshot.rapid:
                return
            self._end_cancelled(tx, operation)
            if snapshot.archive.state is model.ArchiveState.SCHEDULED:
                snapshots.put(tx, snapshots.waiting_again(snapshot, core.now()))
        if control is not None:
            control.cancel()

    def _discard_upload(self, operation: model.Operation) -> None:
        """Give an unfinished upload up, or stop the making of the volume."""
        core = self._core
        control = self._control(operation)
        if control is not None:
            control.cancel()
            return
        self._active_uploads.interrupt(operation.target_uid)
        with self._active_uploads.held_off(operation.target_uid) as free:
            if not free:
                raise errors.WrongState(
                    name=operation.target,
                    state="claimed by another call",
                    method="CancelOperation",
                    allowed="claimed by none",
                )
            for intent in journal.intents_of(core.catalog.reader(), operation.target_uid):
                if intent.kind == import_volume.UPLOAD:
                    name = names.operation(operation.environment, operation.id)
                    uploads.discard(core, intent, errors.OperationCancelled(name=name))

    def _end_cancelled(self, tx: db.Transaction, operation: model.Operation) -> None:
        name = names.operation(operation.environment, operation.id)
        error = problems.describe(errors.OperationCancelled(name=name))
        operations.end(tx, operation.uid, self._core.now(), error)

    def delete(self, environment_id: str, operation_id: str) -> None:
        """Forget an operation that is done. Raises errors.NotFound, errors.WrongState if it isn't."""
        operation = self.get(environment_id, operation_id)
        if not operation.done:
            raise errors.WrongState(
                name=names.operation(environment_id, operation_id),
                state="running",
                method="DeleteOperation",
                allowed="done",
            )
        with self._core.catalog.transaction() as tx:
            operations.remove(tx, operation.uid)
