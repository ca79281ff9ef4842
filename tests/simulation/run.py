"""One run: some lives of a daemon in one folder, with callers and faults from a plan, and a verdict at the end.

A life opens the service, compares everything with the ledger, and lets callers loose; it ends in order, by a kill or by
a power cut. The catalog is backed up meanwhile, as a daemon does it. In the last life nothing goes wrong any more:
everything has to come to rest, to be what the ledger says, and to stand up to the checker.
"""

import collections
import contextlib
import dataclasses
import datetime
import functools
import gc
import logging
import os
import pathlib
import random
import sqlite3
import sys
from collections.abc import Callable, Iterator

from snapd import errors, fsops, model
from snapd.archive.backends import directory
from snapd.service.service import Service
from tests.simulation import actions, callers, disk, headers, ledger, machine, scheduler, store, threads, weather
from tests.unit.service import checker
from tests.unit.service import world as worlds

_log = logging.getLogger("snapd")

_NEW = 10
"""One in so many runs begins with nothing, the others with a pool and an archive that are empty."""
_REST_S = 1800.0
_LONGEST_REST = 400
"""Looks until everything has come to rest: more than a week."""


class Stuck(AssertionError):
    """Something doesn't come to rest."""


class Swallowed(AssertionError):
    """A thread of the service met an exception that it didn't expect, and only wrote it into the log."""


class Leaked(AssertionError):
    """A service that was stopped in order still has files open."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides about a run."""

    seed: int
    lives: int
    steps: tuple[actions.Step, ...]
    faults: tuple[weather.Fault, ...]
    worst: bool = False
    """Power cuts leave nothing that was not synced, in place of what the seed says."""


@dataclasses.dataclass(slots=True)
class Figures:
    """What happened."""

    simulated_s: float = 0.0
    operations: int = 0
    """Steps of callers that were answered."""
    acknowledged: int = 0
    kills: int = 0
    power_cuts: int = 0
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, other: "Figures") -> None:
        """Count another run too."""
        self.simulated_s += other.simulated_s
        self.operations += other.operations
        self.acknowledged += other.acknowledged
        self.kills += other.kills
        self.power_cuts += other.power_cuts
        self.faults.update(other.faults)


def plan(seed: int) -> Plan:
    """Return the plan of a seed."""
    choice = random.Random(seed)
    lives = choice.randint(2, 5)
    count = choice.randint(1, 4)
    what = choice.choice((actions.WEIGHTS, actions.WEIGHTS, actions.BUSY))
    kinds, weights = list(what), list(what.values())
    steps = [
        actions.Step(life, caller, kind, choice.getrandbits(32))
        for life in range(lives)
        for caller in range(count)
        for kind in choice.choices(kinds, weights, k=choice.randint(4, 24))
    ]
    faults = weather.forecast(choice, lives) + weather.jumps(random.Random(f"clock {seed}"), lives)
    return Plan(seed, lives, tuple(steps), tuple(faults))


class Run:
    """A run in an empty folder."""

    def __init__(self, plan: Plan, folder: pathlib.Path) -> None:
        self.plan = plan
        self.figures = Figures()
        self._folder = folder
        self._scheduler = scheduler.Scheduler(plan.seed, random.Random(plan.seed).choice((0.02, 0.1, 0.4)))
        self._settings = dataclasses.replace(
            worlds.settings_in(folder),
            max_chain_depth=6,
            archive_workers=2,
            upload_expiry=datetime.timedelta(hours=2),
            catalog_backup_interval=datetime.timedelta(minutes=5),
        )
        self._disk = disk.Disk(folder)
        self._ledger = ledger.Ledger()
        self._times: dict[str, datetime.datetime] = {}
        self._clock: machine.Clock
        self._callers: list[callers.Caller] = []

    def execute(self) -> str:
        """Run, and return the digest of all that happened. Raises AssertionError for what must not be."""
        enabled = gc.isenabled()
        # What is collected at some moment or other would change files at some moment or other.
        gc.disable()
        hook, sys.unraisablehook = sys.unraisablehook, _overhear
        try:
            jumpy = any(fault.kind == "clock" for fault in self.plan.faults)
            with machine.running(self._scheduler, self.plan.seed, may_be_set=jumpy) as self._clock:
                if self.plan.seed % _NEW:
                    # Making the pool's folders takes more steps than all that follows: faults would hardly get past it.
                    self._process(self._weather(-1), self._make)
                for life in range(self.plan.lives):
                    self._live(life)
                self._last_life()
            checker.check_at_rest(self._settings)
        finally:
            sys.unraisablehook = hook
            if enabled:
                gc.enable()
        self.figures.simulated_s = self._scheduler.now_s
        self.figures.acknowledged = self._ledger.acknowledged
        return self._scheduler.digest()

    # --- a life -------------------------------------------------------------------------------------------------------

    def _weather(self, life: int) -> weather.Weather:
        faults = [fault for fault in self.plan.faults if fault.life == life]
        folder, seed = str(self._folder), self.plan.seed + life
        return weather.Weather(self._scheduler, self._disk, self._clock, faults, folder, seed)

    def _open(self, weather_: weather.Weather) -> Service:
        self._ledger.forgetful = self._clock.was_set_forward
        backend = directory.DirectoryBackend(self._settings.archive_path)
        return Service.open(self._settings, self._clock, store.Store(backend, weather_, self._clock.now, self._times))

    def _make(self) -> None:
        service = self._open(self._weather(-1))
        self._begin(service)
        service.stop()

    def _live(self, life: int) -> None:
        weather_ = self._weather(life)
        self._process(weather_, lambda: self._work(weather_, life))

    def _work(self, weather_: weather.Weather, life: int) -> None:
        weather_.begins()
        weather_.calm = False
        try:
            service = self._open(weather_)
        except errors.SnapdError as error:
            if weather_.struck.keys() <= weather.HARMLESS:
                raise AssertionError(f"the service didn't open: {error}") from error
            return
        with _calm(weather_):
            self._begin(service)
            self._ledger.verify(service)
        service.start()
        self._call(service, life)
        weather_.callers_are_done()
        service.stop()

    def _process(self, weather_: weather.Weather, work: Callable[[], None]) -> None:
        """Have a process that does some work, and see to what it leaves."""
        self._scheduler.note("life")
        killed = failed = False
        listener = _Listener()
        _log.addHandler(listener)
        fsops.observe(weather_, self._disk)
        try:
            work()
        except scheduler.Killed:
            killed = True
        except BaseException:
            failed = True
            raise
        finally:
            self._scheduler.bury()
            if not failed and not self._scheduler.failures:
                self._clean_up(in_order=not killed)
            fsops.observe(None)
            _log.removeHandler(listener)
            self._scheduler.revive()
        if self._scheduler.failures:
            raise self._scheduler.failures[0]
        if listener.unexpected:
            raise Swallowed(listener.unexpected[0]) from listener.errors[0]
        self.figures.faults.update(weather_.struck)
        if killed and weather_.power_cut:
            self.figures.power_cuts += 1
            self._cut(random.Random(self.plan.seed + len(self.plan.faults)))
        elif killed:
            self.figures.kills += 1
        headers.verify(self._settings, self._ledger)

    def _clean_up(self, *, in_order: bool) -> None:
        """Have nothing left of a dead process: what its objects would still do as they go is not done any more."""
        self._ledger.died()
        for caller in self._callers:
            caller.leave()
        self._callers.clear()
        gc.collect()
        _close_all(self._folder, in_order=in_order)

    def _cut(self, choice: random.Random) -> None:
        self._disk.cut(None if self.plan.worst else choice)
        if self.plan.worst or choice.random() < 0.5:
            # The index of the archive syncs at checkpoints only: anything since then may be lost.
            for suffix in ("-wal", "-shm"):
                pathlib.Path(f"{self._settings.index_path}{suffix}").unlink(missing_ok=True)

    def _begin(self, service: Service) -> None:
        """Have what the first life needs, and ask again where a process died before it answered."""
        with contextlib.suppress(errors.AlreadyExists):
            service.environments.create(worlds.request("CreateEnvironment", ""), ledger.ENVIRONMENT, "", {}, None)
        unanswered, self._ledger.unanswered = self._ledger.unanswered, []
        for call in unanswered:
            try:
                call(service)
            except errors.SnapdError as error:
                callers.require_typed(error)

    def _call(self, service: Service, life: int) -> None:
        steps: dict[int, list[actions.Step]] = collections.defaultdict(list)
        for step in self.plan.steps:
            if step.life == life:
                steps[step.caller].append(step)
        ends = []
        for number, own in sorted(steps.items()):
            caller = callers.Caller(service, self._ledger, self._scheduler)
            self._callers.append(caller)
            ended = threads.Event(self._scheduler)
            ends.append(ended)
            self._scheduler.begin(f"caller-{number}", functools.partial(self._take_all, caller, own, ended))
        for ended in ends:
            ended.wait()

    def _take_all(self, caller: callers.Caller, steps: list[actions.Step], ended: threads.Event) -> None:
        for step in steps:
            caller.take(step)
            self.figures.operations += 1
        ended.set()

    # --- the end ------------------------------------------------------------------------------------------------------

    def _last_life(self) -> None:
        weather_ = self._weather(self.plan.lives)
        self._process(weather_, lambda: self._rest(weather_))

    def _rest(self, weather_: weather.Weather) -> None:
        weather_.begins()
        service = self._open(weather_)
        self._begin(service)
        self._ledger.verify(service)
        service.start()
        service.work.resume(worlds.request("ResumeWork"), [])
        self._come_to_rest(service)
        self._require_final(service)
        service.stop()

    def _come_to_rest(self, service: Service) -> None:
        busy: list[str] = []
        for _ in range(_LONGEST_REST):
            self._scheduler.sleep(_REST_S)
            busy = self._mend(service) or self._busy()
            if not busy:
                return
        raise Stuck("; ".join(busy))

    def _busy(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(f"file:{self._settings.catalog_path}?mode=ro", uri=True)) as catalog:
            found = catalog.execute(
                "SELECT 'intent ' || kind || ' ' || payload FROM intents"
                " UNION ALL SELECT 'layer ' || state FROM layers WHERE state NOT IN ('HEAD', 'FROZEN')"
                " UNION ALL SELECT 'snapshot ' || id || ' ' || archive_state FROM snapshots"
                " WHERE archive_state != 'ARCHIVED'"
                " UNION ALL SELECT 'operation ' || method || ' ' || target FROM operations WHERE NOT done"
            ).fetchall()
        return [row[0] for row in found]

    def _mend(self, service: Service) -> list[str]:
        """Do what an operator does about what has failed; return what that was."""
        done = []
        query = model.Query(ledger.ENVIRONMENT, "me", 1000, "", "", "")
        for snapshot in service.snapshots.list(query).items:
            known = self._ledger.snapshots.get(snapshot.id)
            if snapshot.state is not model.SnapshotState.DESTROYING and known is not None and known.ending:
                service.snapshots.delete(worlds.request("DeleteSnapshot"), ledger.ENVIRONMENT, snapshot.id, "", False)
                done.append(f"delete {snapshot.id}")
            elif snapshot.archive.state is model.ArchiveState.FAILED:
                service.snapshots.archive(worlds.request("ArchiveSnapshot"), ledger.ENVIRONMENT, snapshot.id, "")
                done.append(f"archive {snapshot.id}: {snapshot.archive.error}")
        for volume in service.volumes.list(query).items:
            if volume.state is model.VolumeState.FAILED:
                service.volumes.delete(worlds.request("DeleteVolume"), ledger.ENVIRONMENT, volume.id, "", False)
                done.append(f"delete {volume.id}: {volume.error}")
                known = self._ledger.volumes.get(volume.id)
                if known is not None:
                    known.present = None
        return done

    def _require_final(self, service: Service) -> None:
        """Everything that is left is known, at rest, and what it has to be."""
        self._ledger.verify(service)
        query = model.Query(ledger.ENVIRONMENT, "me", 1000, "", "", "")
        for volume in service.volumes.list(query).items:
            if volume.id not in self._ledger.volumes or volume.state is not model.VolumeState.READY:
                raise Stuck(f"volume {volume.id} is {volume.state}")
        for snapshot in service.snapshots.list(query).items:
            if snapshot.id not in self._ledger.snapshots or snapshot.state is not model.SnapshotState.COMPLETED:
                raise Stuck(f"snapshot {snapshot.id} is {snapshot.state}")
            if snapshot.health is not model.HealthState.OK:
                raise AssertionError(f"snapshot {snapshot.id} is {snapshot.health}")


class _Listener(logging.Handler):
    """Hears of exceptions that the service swallows; of the rest of the log it makes nothing but texts.

    Whoever keeps records, as pytest does, would keep with an error the frames of a process that is dead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unexpected: list[str] = []
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, errors.SnapdError | OSError):
            self.unexpected.append(f"{record.getMessage()}: {error!r}")
            self.errors.append(error)
        record.msg, record.args, record.exc_info = record.getMessage(), None, None


def _overhear(unraisable: "sys.UnraisableHookArgs") -> None:
    """Hear what the objects of a dead process can't do any more, and think nothing of it."""
    if not isinstance(unraisable.exc_value, scheduler.Killed):
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def _calm(weather_: weather.Weather) -> Iterator[None]:
    weather_.calm = True
    yield
    weather_.calm = False


def _close_all(folder: pathlib.Path, *, in_order: bool) -> None:
    """Close what a dead process had open; one that ended in order has nothing open."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{name}")
            if not path.startswith(f"{folder}/"):
                continue
            assert ".sqlite3" not in path, f"a connection outlived its process: {path}"
            if in_order:
                raise Leaked(path)
            os.close(int(name))
