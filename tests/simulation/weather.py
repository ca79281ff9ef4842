"""What goes wrong, and when: faults that strike at chosen operations on files and calls of the archive's store.

A plan is a list of faults, so that one that fails can be made smaller. Weather is the observer of `fsops` that brings
them about, and gives the turn away before each operation.
"""

import dataclasses
import datetime
import errno
import os
import random
from typing import Final

from snapd import errors, fsops, units
from tests.simulation import disk as disks
from tests.simulation import machine
from tests.simulation import scheduler as schedulers

KINDS: Final = ("kill", "power", "EIO", "ENOSPC", "fsync", "short", "away", "slow", "clock")
DEADLY: Final = frozenset({"kill", "power"})
HARMLESS: Final = frozenset({"clock"})
"""What never keeps a service from being opened."""
_SYNCS: Final = frozenset({"fsync", "fdatasync", "syncdir"})
_STORE: Final = frozenset({"away", "slow"})
_SLOWNESS_S: Final = 20.0
_JUMP_DAYS: Final = (-3.0, 2.6)
"""Powers of ten: from a minute and a half to more than a year."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """Something goes wrong."""

    life: int
    """The life of the daemon in which it does, from 0."""
    kind: str
    at: int
    """From which operation on: of files, of syncs, or calls of the store, by the kind.

    0: when the callers are done, or for a clock that was set while nobody ran: before the service is opened.
    """
    count: int = 1
    """How many in a row it hits."""


class Weather:
    """The faults of one life. Calm, it neither counts nor strikes."""

    def __init__(
        self,
        scheduler: schedulers.Scheduler,
        disk: disks.Disk,
        clock: machine.Clock,
        faults: list[Fault],
        root: str,
        seed: int,
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._disk = disk
        self._faults = faults
        self._root = root
        self._pid = str(os.getpid())
        self._random = random.Random(seed)
        self._operations = self._syncs = self._calls = 0
        self.calm = True
        self.struck: dict[str, int] = {}
        """How often faults struck, by kind."""
        self.power_cut = False

    def __call__(self, operation: fsops.Operation) -> int | None:
        """Observe an operation on files."""
        scheduler = self._scheduler
        if scheduler.dead:
            raise schedulers.Killed
        scheduler.pause()
        named = "" if operation.target.isdigit() else operation.target.removeprefix(self._root)
        scheduler.note(operation.name, named.replace(self._pid, "pid"), operation.offset, operation.length)
        if self.calm:
            return None
        self._operations += 1
        self._set_clock(self._operations)
        if operation.name in _SYNCS:
            self._syncs += 1
            if self._strikes("fsync", self._syncs):
                if operation.target.isdigit():
                    self._disk.lose(int(operation.target), self._random)
                raise _error(errno.EIO)
        return self._strike(operation)

    def _strike(self, operation: fsops.Operation) -> int | None:
        self._die(self._operations)
        if operation.name == "point":
            return None
        for code in ("EIO", "ENOSPC"):
            if self._strikes(code, self._operations):
                if operation.name == "fsync":
                    self._disk.lose(int(operation.target), self._random)
                raise _error(getattr(errno, code))
        if operation.name in ("pwrite", "copy") and self._strikes("short", self._operations):
            # It ends with a sector: within one neither kernels nor disks leave a write.
            end = units.round_down(operation.offset + self._random.randint(0, operation.length), units.SECTOR)
            return end - operation.offset if end > operation.offset else None
        return None

    def begins(self) -> None:
        """Strike with what happened while nobody ran."""
        self._set_clock(0)

    def _set_clock(self, count: int) -> None:
        if self._strikes("clock", count):
            days = 10 ** self._random.uniform(*_JUMP_DAYS)
            self._clock.set(datetime.timedelta(days=self._random.choice((-days, -days, days))))

    def callers_are_done(self) -> None:
        """Strike with what is to come at the end. Raises Killed if the process dies of it."""
        self._die(0)

    def _die(self, count: int) -> None:
        for deadly in sorted(DEADLY):
            if self._strikes(deadly, count):
                self.power_cut = deadly == "power"
                self._scheduler.kill()
                raise schedulers.Killed

    def call(self) -> None:
        """Observe a call of the archive's store. Raises errors.ArchiveUnreachable if it is away."""
        self._scheduler.pause()
        if self.calm:
            return
        self._calls += 1
        if self._strikes("slow", self._calls):
            self._scheduler.sleep(self._random.uniform(0, _SLOWNESS_S))
        if self._strikes("away", self._calls):
            raise errors.ArchiveUnreachable(problem="it is away")

    def _strikes(self, kind: str, count: int) -> bool:
        for fault in self._faults:
            if fault.kind == kind and fault.at <= count < fault.at + fault.count:
                self.struck[kind] = self.struck.get(kind, 0) + 1
                return True
        return False


def forecast(choice: random.Random, lives: int) -> list[Fault]:
    """Return what is to go wrong in some lives of a daemon: most end by a kill or a power cut."""
    faults = []
    for life in range(lives):
        end = choice.choice(("kill", "power", "power", "none"))
        if end != "none":
            at = 0 if choice.random() < 0.2 else int(10 ** choice.uniform(0, 3.3))
            faults.append(Fault(life, end, at))
        for _ in range(choice.choice((0, 0, 1, 2, 3))):
            kind = choice.choice(("EIO", "ENOSPC", "fsync", "short", "away", "slow"))
            reach = 2.0 if kind in _STORE or kind == "fsync" else 3.0
            faults.append(Fault(life, kind, int(10 ** choice.uniform(0, reach)), choice.choice((1, 1, 2, 5, 40))))
    return faults


def jumps(choice: random.Random, lives: int) -> list[Fault]:
    """Return when the clock is set in some lives of a daemon: in every third run it is."""
    if choice.random() > 1 / 3:
        return []
    moments = (0, int(10 ** choice.uniform(0, 3)))
    return [Fault(life, "clock", choice.choice(moments)) for life in range(lives + 1) if choice.random() < 0.5]


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
