"""What callers were told, and what must therefore be true of the service, whatever happened in between."""

import dataclasses
from collections.abc import Callable

from snapd import errors, model
from snapd.service.service import Service
from tests.simulation import contents
from tests.unit.service import world as worlds

ENVIRONMENT = "e"


class Lost(AssertionError):
    """Something that was acknowledged is not there, or is there though its end was acknowledged."""


class Untyped(AssertionError):
    """Something failed without saying why in a way that a caller can act on."""


@dataclasses.dataclass(slots=True)
class Disk:
    """What is known of a volume or of a snapshot."""

    id: str
    present: bool | None
    """True: it was acknowledged. None: the call that makes or ends it has no outcome that is known."""
    candidates: list[contents.Contents]
    """It has one of these contents."""
    volume_id: str = ""
    """Of a snapshot: what it was taken of."""
    may_fail: bool = False
    """Work on it may end in FAILED."""
    ending: bool = False
    """Its end was asked for."""
    held: bool = False
    """A call is at it that bears no other."""
    writes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """Ranges of sectors that calls are writing."""
    watchers: list[contents.Contents] = dataclasses.field(default_factory=list)
    """Snapshots and reads under way, to which all counts that is there meanwhile."""
    names: set[str] = dataclasses.field(default_factory=set)
    """It has one of these display names; none of them if this is empty."""

    def attempt(self, first: int, numbers: contents.Numbers) -> None:
        """Somebody begins to write."""
        for each in (*self.candidates, *self.watchers):
            each.attempt(first, numbers)

    def acknowledge(self, first: int, numbers: contents.Numbers) -> None:
        """Somebody was told that it is written."""
        for each in self.candidates:
            each.acknowledge(first, numbers)

    def require(self, data: bytes) -> None:
        """Raise WrongBytes unless the disk may hold these bytes; then know which of the candidates they are."""
        problems = [candidate.difference(data) for candidate in self.candidates]
        if all(problems):
            raise contents.WrongBytes(f"{self.id}: {'; '.join(problems)}")
        self.candidates = [each for each, problem in zip(self.candidates, problems, strict=True) if not problem][:1]


class Ledger:
    """All that is known."""

    def __init__(self) -> None:
        self.volumes: dict[str, Disk] = {}
        self.snapshots: dict[str, Disk] = {}
        self.gone: set[str] = set()
        """Ids of volumes and snapshots whose end was acknowledged."""
        self.operations: list[model.Operation] = []
        """Accepted, with an end to come."""
        self.forgetful = False
        """The clock was set forward: operations that ended may be older by it than any is kept."""
        self.unanswered: list[Callable[[Service], None]] = []
        """Requests whose answer was lost, to be made again."""
        self.acknowledged = 0
        self._numbers = 0

    def number(self) -> int:
        """Return the next number, of a write or for an id."""
        self._numbers += 1
        return self._numbers

    def died(self) -> None:
        """The process is gone, and with it all calls."""
        for disk in (*self.volumes.values(), *self.snapshots.values()):
            disk.writes.clear()
            disk.watchers.clear()
            disk.held = len(disk.candidates) > 1

    def end(self, kind: dict[str, Disk], disk: Disk) -> None:
        """A volume or a snapshot is gone for good."""
        kind.pop(disk.id, None)
        self.gone.add(disk.id)

    # --- is it so? ----------------------------------------------------------------------------------------------------

    def verify(self, service: Service) -> None:
        """Compare all that is known with what the service says. Nothing goes wrong meanwhile, and nobody calls."""
        for volume in list(self.volumes.values()):
            self._verify_volume(service, volume)
        for snapshot in list(self.snapshots.values()):
            self._verify_snapshot(service, snapshot)
        for name in sorted(self.gone):
            self._require_gone(service, name)
        for operation in self.operations:
            try:
                service.operations.get(ENVIRONMENT, operation.id)
            except errors.NotFound as error:
                if self.forgetful:
                    continue
                raise Lost(f"operation {operation.method} of {operation.target} was accepted") from error

    def _require_gone(self, service: Service, name: str) -> None:
        for get in (service.volumes.get, service.snapshots.get):
            try:
                get(ENVIRONMENT, name)
            except errors.NotFound:
                continue
            raise Lost(f"{name} is there again")

    def _verify_volume(self, service: Service, disk: Disk) -> None:
        try:
            volume = service.volumes.get(ENVIRONMENT, disk.id)
        except errors.NotFound as error:
            self._missing(self.volumes, disk, error)
            return
        self._require_name(disk, volume.display_name)
        if volume.state in (model.VolumeState.READY, model.VolumeState.SNAPSHOT_IN_PROGRESS):
            disk.present = True
            disk.ending = disk.may_fail = False
            disk.require(worlds.contents(service.transfers.export_volume(ENVIRONMENT, disk.id)))
            disk.held = False
        elif volume.state is model.VolumeState.FAILED:
            self._require_reason(disk, volume.error)

    def _verify_snapshot(self, service: Service, disk: Disk) -> None:
        try:
            snapshot = service.snapshots.get(ENVIRONMENT, disk.id)
        except errors.NotFound as error:
            self._missing(self.snapshots, disk, error)
            return
        self._require_name(disk, snapshot.display_name)
        if snapshot.state is model.SnapshotState.COMPLETED:
            if not disk.ending:
                disk.present = True
            try:
                data = worlds.contents(service.transfers.export_snapshot(ENVIRONMENT, disk.id))
            except (errors.NotFound, errors.WrongState):
                if disk.ending:
                    return
                raise
            disk.require(data)
            disk.candidates[0].settle(data)
        elif snapshot.state is model.SnapshotState.FAILED:
            self._require_reason(disk, snapshot.error)

    def _missing(self, kind: dict[str, Disk], disk: Disk, error: errors.NotFound) -> None:
        if disk.present:
            raise Lost(f"{disk.id} was acknowledged") from error
        self.end(kind, disk)

    def _require_reason(self, disk: Disk, error: model.Problem | None) -> None:
        if error is None or error.reason == errors.SnapdError.reason:
            raise Untyped(f"{disk.id} is FAILED: {error}")
        if not disk.may_fail:
            raise Lost(f"{disk.id} is FAILED, and nothing was at it that may fail: {error}")

    def _require_name(self, disk: Disk, name: str) -> None:
        if disk.names and name not in disk.names:
            raise Lost(f"{disk.id} is called {name}, not {' or '.join(disk.names)}")
