"""What every part of the service stands on: the stores, the clock, and what is under way."""

import dataclasses
import datetime
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from snapd import clock as clocks
from snapd import errors, model, pace
from snapd.archive import manifest as manifests
from snapd.archive import repository as repositories
from snapd.catalog import attachments, db, layers, operations, pauses, snapshots, volumes
from snapd.copier import control as controls
from snapd.pool import layers as pools
from snapd.pool import pins as pinning
from snapd.qcow2.reading import chain as chains
from snapd.service import hints as hinting
from snapd.service import locks as locking
from snapd.service import names
from snapd.service import suspects as suspecting
from snapd.service.settings import Settings


class LayerGone(LookupError):
    """A layer went away before it could be pinned; what it showed is somewhere else by now."""


WORK_OF_METHOD = {
    "CreateSnapshot": "archive",
    "ArchiveSnapshot": "archive",
    "CreateVolume": "create_volume",
    "ImportVolume": "import_volume",
    "RevertVolume": "revert",
    "Scrub": "scrub",
    "VerifySnapshot": "verify_snapshot",
    "Collect": "collect",
}
"""The kind of intent whose progress the operation of a method shows."""


CATALOG_AREA = "catalog"
"""What is archived under this in the place of an environment is the host's own catalog."""


def packs_of(environment_uid: str) -> str:
    """Return what to pin so that an environment's packs aren't collected."""
    return f"packs/{environment_uid}"


class Controls:
    """The reins of running work, by the intent's kind and the uid of the resource that it works on."""

    def __init__(self, make: Callable[[], controls.Control] = controls.Control) -> None:
        """Have new reins made by a function."""
        self._make = make
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], controls.Control] = {}
        self._parked = False
        self._paused: set[str] = set()

    @property
    def parked(self) -> bool:
        """Whether all work is to stop until the next start."""
        return self._parked

    @contextmanager
    def running(self, kind: str, subject: str) -> Iterator[controls.Control]:
        """Register work on a resource for the length of a block."""
        control = self._make()
        with self._lock:
            if self._parked or kind in self._paused:
                control.park()
            self._running[kind, subject] = control
        try:
            yield control
        finally:
            with self._lock:
                # The next work of this kind may have begun: what has committed lets others in before it tidies up.
                if self._running.get((kind, subject)) is control:
                    del self._running[kind, subject]

    def find(self, kind: str, subject: str) -> controls.Control | None:
        """Return the reins of the work on a resource, if there is any."""
        with self._lock:
            return self._running.get((kind, subject))

    def count(self, kind: str) -> int:
        """Return how much work of a kind is under way."""
        with self._lock:
            return sum(running == kind for running, _ in self._running)

    def pause(self, kind: str) -> None:
        """Ask the work of a kind, now and from now on, to stop until it is resumed."""
        with self._lock:
            self._paused.add(kind)
            for (running, _), control in self._running.items():
                if running == kind:
                    control.park()

    def resume(self, kind: str) -> None:
        """Let work of a kind begin again. What was parked stays so: whoever runs it takes it up anew."""
        with self._lock:
            self._paused.discard(kind)

    def park(self) -> None:
        """Ask all work, now and from now on, to stop until the next start."""
        with self._lock:
            self._parked = True
            for control in self._running.values():
                control.park()


@dataclasses.dataclass(frozen=True, slots=True)
class Core:
    """The stores and the bookkeeping that the parts of the service share."""

    settings: Settings
    clock: clocks.Clock
    catalog: db.Catalog
    pool: pools.Pool
    pins: pinning.Pins
    repository: repositories.Repository
    archive_pace: pace.Pace
    """How fast all archive runs together may read."""
    scrub_pace: pace.Pace
    """How fast the archive may be read to check it: by `paced.PacedBackend`, with a control's `wait`."""
    locks: locking.KeyedLocks = dataclasses.field(default_factory=locking.KeyedLocks)
    controls: Controls = dataclasses.field(default_factory=Controls)
    hints: hinting.Hints = dataclasses.field(default_factory=hinting.Hints)
    suspects: suspecting.Suspects = dataclasses.field(default_factory=suspecting.Suspects)

    def now(self) -> datetime.datetime:
        """Return the time."""
        return self.clock.now()

    def new_layer(self, parent: str | None, size_bytes: int) -> model.Layer:
        """Return a layer that is yet to be made."""
        return model.Layer(names.new_uid(), parent, size_bytes, model.LayerState.CREATING, self.now())

    def new_operation(
        self, method: str, environment: model.Environment, target: str, target_uid: str
    ) -> model.Operation:
        """Return an operation that is yet to be recorded."""
        uid = names.new_uid()
        return model.Operation(
            uid=uid,
            environment_uid=environment.uid,
            environment=environment.id,
            id=names.operation_id(uid),
            method=method,
            target=target,
            target_uid=target_uid,
            done=False,
            error=None,
            created=self.now(),
            ended=None,
        )

    @contextmanager
    def pinned(self, top: str) -> Iterator[list[model.Layer]]:
        """Hold a head or a frozen layer, and what it stands on, for the length of a block; yields all, top first.

        A fold may change the chain until it is pinned, so the catalog is asked once more afterwards. Raises LayerGone.
        """
        while True:
            below = layers.chain(self.catalog.reader(), top)
            if not below or below[0].state not in (model.LayerState.FROZEN, model.LayerState.HEAD):
                raise LayerGone(top)
            with self.pins.reading([layer.uid for layer in below]):
                if layers.chain(self.catalog.reader(), top) == below:
                    yield below
                    return

    def require_detached(self, volume_uid: str) -> None:
        """Raise errors.VolumeAttached while a storage daemon may have a volume's head open: its file is stale then."""
        reader = self.catalog.reader()
        found = attachments.of_disk(reader, volume_uid)
        if found is not None and found.state is not model.AttachmentState.CRASHED:
            volume = volumes.by_uid(reader, volume_uid)
            assert volume is not None
            raise errors.VolumeAttached(name=names.volume(volume.environment, volume.id))

    @contextmanager
    def chain(self, top: str, *, past_cache: bool = False) -> Iterator[chains.Chain]:
        """Open the disk that a layer shows, pinned for the length of a block; `past_cache` if it is read but once.

        Raises LayerGone, errors.Corrupt, errors.VolumeAttached.
        """
        attachment = attachments.of_head(self.catalog.reader(), top)
        if attachment is not None and attachment.volume_uid is not None:
            self.require_detached(attachment.volume_uid)
        with self.pinned(top) as below, self.pool.opened(below, past_cache=past_cache) as opened:
            yield opened

    @contextmanager
    def archived(self, snapshot: model.Snapshot) -> Iterator[manifests.Manifest]:
        """Open a snapshot's manifest, with its environment's packs held against collection for the length of a block.

        Raises errors.NotFound, errors.Corrupt, errors.ArchiveUnreachable.
        """
        with self.pins.reading([packs_of(snapshot.environment_uid)]):
            yield self.repository.manifest(snapshot.environment_uid, snapshot.uid)

    def postpone(self, pinned: Iterable[str], *, layer: str | None = None, environment: str | None = None) -> None:
        """Have the keeper try again, once nobody reads or has what was pinned when it tried."""
        self.hints.postpone(layer, environment)
        # Who let go of it between the attempt and this didn't find anything to hint at.
        if not any(map(self.pins.is_pinned, pinned)):
            self.hints.unpinned()

    def require_depth(self, volume_name: str, parent: str) -> None:
        """Raise errors.ChainDepth if nothing may stand on a layer any more."""
        depth = len(layers.chain(self.catalog.reader(), parent))
        if depth >= self.settings.max_chain_depth:
            raise errors.ChainDepth(volume=volume_name, depth=depth)

    def sweep(self) -> None:
        """Remove the files and rows of doomed layers that nobody reads, those that stand on others first."""
        reader = self.catalog.reader()
        removed = True
        while removed:
            removed = False
            for layer in layers.in_state(reader, model.LayerState.DOOMED):
                if self.pins.is_pinned(layer.uid) or not self._is_sealed(layer.parent):
                    continue
                self.pool.remove(layer.uid)
                with self.catalog.transaction() as tx:
                    removed |= layers.remove(tx, layer.uid)

    def _is_sealed(self, uid: str | None) -> bool:
        """Have the file of a frozen layer say durably that it is frozen, before what stands on it goes; say if it does.

        As long as something stands on it that is plain; then a rebuild of the catalog would take it for a head.
        """
        below = None if uid is None else layers.find(self.catalog.reader(), uid)
        if below is None or below.state is not model.LayerState.FROZEN or not self.pool.path(below.uid).exists():
            return True
        if self.pool.mode(below.uid) == pools.FROZEN_MODE:
            self.pool.settle_mode(below.uid)
        elif self.pool.is_writable(below.uid):
            # Whoever froze it died before its mode said so.
            with self.pins.alone([below.uid]) as alone:
                if not alone:
                    # A fold may be about to give it another mode; a later sweep finds out.
                    return False
                self.pool.freeze(below.uid, durable=True)
        return True

    def operation(self, uid: str) -> model.Operation:
        """Return an operation, with the progress of its work."""
        found = operations.by_uid(self.catalog.reader(), uid)
        if found is None:
            raise errors.NotFound(resource_type="operation", name=names.operation_id(uid))
        return self.with_progress(found)

    def with_progress(self, operation: model.Operation) -> model.Operation:
        """Return an operation with the progress of its work, if it is running or waits to."""
        kind = WORK_OF_METHOD.get(operation.method, "")
        waits = False
        if kind == "archive":
            operation, waits = self._with_attempt(operation)
        # What waits again may have its reins for a moment still.
        control = None if operation.done or waits else self.controls.find(kind, operation.target_uid)
        if control is None:
            return operation
        progress = control.progress()
        return dataclasses.replace(
            operation,
            stage=progress.stage,
            bytes_done=progress.bytes_done,
            bytes_total=progress.bytes_total,
            bytes_per_second=progress.bytes_per_second,
            estimated_end=self.after(progress.remaining),
        )

    def _with_attempt(self, operation: model.Operation) -> tuple[model.Operation, bool]:
        """Return the operation of an archiving with which attempt it is at, and whether it waits, and for what."""
        reader = self.catalog.reader()
        found = snapshots.attempts(reader, operation.target_uid)
        if found is None:
            return operation, False
        begun, next_attempt = found
        if operation.done or next_attempt is None:
            return dataclasses.replace(operation, stage="", attempt=max(1, begun)), False
        now = self.now()
        paused = next_attempt <= now and pauses.find(reader, model.Worker.ARCHIVER, now) is not None
        return dataclasses.replace(operation, stage="PAUSED" if paused else "WAITING", attempt=begun + 1), True

    def after(self, period: datetime.timedelta | None) -> datetime.datetime | None:
        """Return when a time from now on, which may be unknown, will have passed."""
        return None if period is None else self.now() + period

    def estimate(
        self, connection: sqlite3.Connection, layer: str | None, environment_uid: str, by: datetime.datetime
    ) -> int:
        """Return about how many bytes an archive run of a frozen layer will read, if it begins at a moment."""
        if layer is None:
            return 0
        return sum(map(self.pool.allocated_bytes, layers.to_archive(connection, layer, environment_uid, by)))

    def space(self, top: str | None) -> model.Space:
        """Return what a layer takes with all that it stands on: what would go with it, and what would stay."""
        exclusive = shared = 0
        if top is not None:
            reader = self.catalog.reader()
            alone = True
            for layer in layers.chain(reader, top):
                alone = alone and layers.is_only_under(reader, layer.uid, within=top)
                if alone:
                    exclusive += self.pool.allocated_bytes(layer.uid)
                else:
                    shared += self.pool.allocated_bytes(layer.uid)
        return model.Space(exclusive, shared)
