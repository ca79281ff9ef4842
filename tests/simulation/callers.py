"""Callers: each does one thing after the other, and writes into the ledger what it was told."""

import contextlib
import datetime
import functools
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from snapd import errors, model, units
from snapd.service.service import Service
from snapd.service.snapshots import SnapshotSpec
from snapd.service.volumes import VolumeSpec
from tests.simulation import actions, contents
from tests.simulation import ledger as ledgers
from tests.simulation import scheduler as schedulers
from tests.unit.service import world as worlds

_E: Final = ledgers.ENVIRONMENT
_MOST_VOLUMES: Final = 5
_MOST_SNAPSHOTS: Final = 12
_PATIENCE_S: Final = 600.0
_LOOK_S: Final = 5.0

_REFUSALS: Final = (
    errors.WrongState,
    errors.NotFound,
    errors.AlreadyExists,
    errors.ChainDepth,
    errors.PoolFull,
    errors.SnapshotOfAnotherVolume,
)
"""Errors that say that nothing was done."""


class Broken(AssertionError):
    """A call failed with an error that nothing explains."""


def require_typed(error: errors.SnapdError) -> None:
    """Raise Broken for an error that tells a caller nothing, or that damage is found where there is none."""
    if type(error) is errors.SnapdError or isinstance(error, errors.DataLoss):
        raise Broken(f"{type(error).__name__}: {error}") from error


class Caller:
    """One caller of a service that is open."""

    def __init__(self, service: Service, ledger: ledgers.Ledger, scheduler: schedulers.Scheduler) -> None:
        self._service = service
        self._ledger = ledger
        self._scheduler = scheduler
        self._random = random.Random(0)
        self.done = 0
        """Steps that were taken and answered, well or not."""

    def leave(self) -> None:
        """Let go of the service: its process is gone. What was left unanswered may be asked of the next one."""
        del self._service

    def take(self, step: actions.Step) -> None:
        """Take a step. Errors that a caller has to live with are no failure."""
        self._random = random.Random(step.seed)
        action: Callable[[], None] = getattr(self, f"_{step.kind}")
        try:
            action()
            outcome = "well"
        except errors.SnapdError as error:
            require_typed(error)
            outcome = type(error).__name__
        self.done += 1
        self._scheduler.note("step", step.kind, outcome)

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _volume(self) -> ledgers.Disk | None:
        found = [disk for disk in self._ledger.volumes.values() if disk.present and not disk.held and not disk.ending]
        return self._random.choice(found) if found else None

    def _snapshot(self) -> ledgers.Disk | None:
        found = [disk for disk in self._ledger.snapshots.values() if disk.present and not disk.ending]
        return self._random.choice(found) if found else None

    def _sectors(self) -> int:
        return self._random.randrange(1, 2 * units.MIB // units.SECTOR)

    # --- volumes ------------------------------------------------------------------------------------------------------

    def _new(self, kind: str, candidate: contents.Contents) -> ledgers.Disk | None:
        if len(self._ledger.volumes) >= _MOST_VOLUMES:
            return None
        disk = ledgers.Disk(f"{kind}{self._ledger.number()}", None, [candidate])
        self._ledger.volumes[disk.id] = disk
        return disk

    def _create(self) -> None:
        disk = self._new("v", contents.Contents.empty(self._sectors()))
        if disk is None:
            return
        spec = VolumeSpec("", {}, model.VolumeRole.DATA, "", disk.candidates[0].size_bytes, "")
        request = worlds.request("CreateVolume")

        def call(service: Service) -> None:
            service.volumes.create(request, _E, disk.id, spec)
            self._acknowledge(disk)

        self._ask(call)

    def _ask(self, call: Callable[[Service], None]) -> None:
        """Make a call that is made again, with the same request id, if the process dies before it answers."""
        self._ledger.unanswered.append(call)
        try:
            call(self._service)
        finally:
            if not self._scheduler.dead:
                self._ledger.unanswered.remove(call)

    def _acknowledge(self, disk: ledgers.Disk) -> None:
        disk.present = True
        self._ledger.acknowledged += 1

    def _bring(self) -> None:
        sectors = self._sectors()
        data = contents.Contents.empty(sectors)
        first = self._random.randrange(sectors)
        data.acknowledge(first, contents.numbered(self._ledger.number(), first, min(64, sectors - first)))
        disk = self._new("i", data)
        if disk is None:
            return
        disk.may_fail = True
        spec = VolumeSpec("", {}, model.VolumeRole.ROOT, "", 0, "")
        request = worlds.request("ImportVolume")
        image = contents.encoded(data.acknowledged)

        def call(service: Service) -> None:
            begin = functools.partial(
                service.transfers.begin_import, request, _E, disk.id, spec, model.ImageFormat.RAW, len(image)
            )
            upload, start = begin(0), 0
            if upload.durable_offset and self._random.random() < 0.7:
                upload.close()
                start = upload.durable_offset
                upload = begin(start)
            with upload:
                for offset in range(start, len(image), 256 * units.KIB):
                    upload.data(offset, image[offset : offset + 256 * units.KIB])
                    if self._random.random() < 0.3:
                        upload.flush()
                upload.finish()
            self._acknowledge(disk)

        self._ask(call)

    def _range(self, disk: ledgers.Disk) -> tuple[int, int] | None:
        """Return a range of sectors that nobody else is writing."""
        sectors = len(disk.candidates[0].acknowledged)
        first = self._random.randrange(sectors)
        count = self._random.randint(1, min(sectors - first, 4 * worlds.CLUSTER // units.SECTOR))
        taken = any(first < end and begin < first + count for begin, end in disk.writes)
        return None if taken else (first, count)

    def _write(self, number: int | None = None) -> None:
        disk = self._volume()
        found = None if disk is None else self._range(disk)
        if disk is None or found is None:
            return
        first, count = found
        numbers = contents.numbered(self._ledger.number() if number is None else number, first, count)
        place = (first, first + count)
        disk.writes.append(place)
        try:
            self._write_to(disk, first, numbers)
            disk.acknowledge(first, numbers)
            self._ledger.acknowledged += 1
        finally:
            if place in disk.writes:
                disk.writes.remove(place)

    def _write_to(self, disk: ledgers.Disk, first: int, numbers: contents.Numbers) -> None:
        write = self._service.transfers.begin_write(worlds.request("WriteBlocks"), _E, disk.id, "")
        disk.attempt(first, numbers)
        with contextlib.closing(write):
            step = max(1, len(numbers) // self._random.randint(1, 4))
            for start in range(first, first + len(numbers), step):
                part = numbers[start - first : start - first + step]
                if part.any():
                    write.data(start * units.SECTOR, contents.encoded(part))
                else:
                    write.hole(start * units.SECTOR, len(part) * units.SECTOR)
                if self._random.random() < 0.2:
                    write.flush()
            write.finish()

    def _zero(self) -> None:
        self._write(0)

    def _revert(self) -> None:
        disk = self._volume()
        if disk is None or disk.writes or disk.watchers:
            return
        own = [each for each in self._ledger.snapshots.values() if each.volume_id == disk.id and each.present]
        if not own:
            return
        target = self._random.choice(own)
        disk.held = True
        disk.candidates = [*disk.candidates, target.candidates[0].copy()]
        before = disk.candidates[0]
        request = worlds.request("RevertVolume")
        try:
            _, operation = self._service.volumes.revert(request, _E, disk.id, target.id, "")
        except _REFUSALS:
            disk.candidates, disk.held = [before], False
            raise
        self._ledger.operations.append(operation)
        ended = self._wait(operation)
        if ended is not None:
            disk.candidates = [before] if ended.error else disk.candidates[1:]
            disk.held = False

    def _wait(self, operation: model.Operation) -> model.Operation | None:
        """Return an operation once it has ended, or None if that takes too long."""
        until_s = self._scheduler.now_s + _PATIENCE_S
        while self._scheduler.now_s < until_s:
            found = self._service.operations.get(_E, operation.id)
            if found.done:
                return found
            self._scheduler.sleep(_LOOK_S)
        return None

    def _clone(self) -> None:
        source = self._snapshot()
        disk = None if source is None else self._new("c", source.candidates[0].copy())
        if source is None or disk is None:
            return
        disk.may_fail = True
        request = worlds.request("CreateVolume")
        spec = worlds.clone_of(source.id)

        def call(service: Service) -> None:
            _, operation = service.volumes.create(request, _E, disk.id, spec)
            self._ledger.operations.append(operation)
            self._ledger.acknowledged += 1

        self._ask(call)
        if self._ledger.operations and self._random.random() < 0.7:
            ended = self._wait(self._ledger.operations[-1])
            if ended is not None and ended.target.endswith(f"/{disk.id}") and ended.error is None:
                disk.present = True

    def _delete_volume(self) -> None:
        disk = self._volume()
        if disk is None or disk.writes or disk.watchers:
            return
        with self._ends(disk):
            self._service.volumes.delete(worlds.request("DeleteVolume"), _E, disk.id, "", False)
            self._ledger.end(self._ledger.volumes, disk)
            self._ledger.acknowledged += 1

    @contextlib.contextmanager
    def _ends(self, disk: ledgers.Disk) -> Iterator[None]:
        """Ask for the end of something in a block."""
        was, disk.present = disk.present, None
        disk.ending, may_fail = True, disk.may_fail
        disk.may_fail = True
        try:
            yield
        except _REFUSALS:
            # Somebody else may have asked as well, and that has no outcome yet.
            disk.present, disk.ending, disk.may_fail = was, was is None, may_fail or was is None
            raise

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def _capture(self) -> None:
        volume = self._volume()
        if volume is None or len(self._ledger.snapshots) >= _MOST_SNAPSHOTS:
            return
        rapid = self._random.random() < 0.6
        taken = volume.candidates[0].copy()
        disk = ledgers.Disk(f"s{self._ledger.number()}", None, [taken], volume.id, may_fail=not rapid)
        self._ledger.snapshots[disk.id] = disk
        request = worlds.request("CreateSnapshot")
        spec = SnapshotSpec(rapid, "", {}, None)
        volume.watchers.append(taken)

        def call(service: Service) -> None:
            _, operation = service.snapshots.create(request, _E, disk.id, volume.id, spec)
            self._acknowledge(disk)
            self._ledger.operations.append(operation)

        try:
            self._ask(call)
        finally:
            if taken in volume.watchers:
                volume.watchers.remove(taken)

    def _archive(self) -> None:
        disk = self._snapshot()
        if disk is not None:
            request = worlds.request("ArchiveSnapshot")
            _, operation = self._service.snapshots.archive(request, _E, disk.id, "")
            self._ledger.operations.append(operation)
            self._ledger.acknowledged += 1
            if self._random.random() < 0.3:
                self._wait(operation)

    def _delete_snapshot(self) -> None:
        disk = self._snapshot()
        if disk is None:
            return
        with self._ends(disk):
            request = worlds.request("DeleteSnapshot")
            _, operation = self._service.snapshots.delete(request, _E, disk.id, "", False)
        assert operation is not None
        self._ledger.operations.append(operation)
        self._ledger.acknowledged += 1
        if self._random.random() < 0.5:
            ended = self._wait(operation)
            if ended is not None and ended.error is None:
                self._ledger.end(self._ledger.snapshots, disk)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _rename(self) -> None:
        kind, update = self._random.choice(
            ((self._volume, self._service.volumes.update), (self._snapshot, self._service.snapshots.update))
        )
        disk = kind()
        if disk is None:
            return
        name = f"n{self._ledger.number()}"
        before = disk.names or {disk.id}
        disk.names = before | {name}
        changes: dict[str, Any] = {"display_name": name}
        update(worlds.request("Update"), _E, disk.id, "", changes)
        # Another caller may be renaming it too.
        disk.names = {name} | (disk.names - before)
        self._ledger.acknowledged += 1

    def _cancel(self) -> None:
        if not self._ledger.operations:
            return
        operation = self._random.choice(self._ledger.operations)
        name = operation.target.rpartition("/")[2]
        for kind in (self._ledger.volumes, self._ledger.snapshots):
            disk = kind.get(name)
            if disk is not None and operation.method in ("CreateSnapshot", "CreateVolume"):
                found = self._service.operations.get(_E, operation.id)
                if not found.done:
                    disk.present, disk.may_fail, disk.ending = None, True, True
        self._service.operations.cancel(_E, operation.id)

    def _pause(self) -> None:
        workers = [self._random.choice(list(model.Worker))]
        duration = datetime.timedelta(minutes=self._random.randint(1, 300))
        self._service.work.pause(worlds.request("PauseWork"), workers, "", duration)

    def _read_volume(self) -> None:
        disk = self._volume()
        if disk is None:
            return
        seen = disk.candidates[0].copy()
        disk.watchers.append(seen)
        try:
            data = worlds.contents(self._service.transfers.export_volume(_E, disk.id))
        finally:
            if seen in disk.watchers:
                disk.watchers.remove(seen)
        problem = seen.difference(data)
        if problem:
            raise contents.WrongBytes(f"{disk.id}: {problem}")

    def _read_snapshot(self) -> None:
        disk = self._snapshot()
        if disk is not None:
            disk.require(worlds.contents(self._service.transfers.export_snapshot(_E, disk.id)))

    def _check(self) -> None:
        disk = self._volume()
        if disk is None:
            return
        with self._service.checks.begin(_E, disk.id, mend=self._random.random() < 0.3) as check:
            for found in iter(check.next, None):
                if found.report is None or found.report.corruptions or found.report.check_errors:
                    raise Broken(f"{disk.id}: {found}")

    def _rest(self) -> None:
        self._scheduler.sleep(self._random.choice((0.1, 60.0, 1800.0, 6 * 3600.0)))
