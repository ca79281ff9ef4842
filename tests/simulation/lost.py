"""Runs in which the catalog is lost between two lives, and rebuilt from what the dead daemon left.

What was acknowledged and had not ended must be there with its exact bytes, under its name or, where only the lost
catalog knew that, as a recovered snapshot. What had ended may come back, and holds nothing wrong then. Whoever operates
the host deletes it again, and removes the files that the rebuild told and left alone; in the end nothing is left over.
"""

import contextlib
import dataclasses
import datetime
import enum
import logging
import pathlib
import random
import sqlite3
from typing import Any

from snapd import errors, fsops, model
from snapd.catalog import copying, db
from snapd.pool import layers as pools
from snapd.service.inspection import files, findings, repair, rows
from snapd.service.rebuilding import rebuild
from snapd.service.service import Service
from tests.simulation import actions, callers, contents, run, threads
from tests.simulation import ledger as ledgers
from tests.unit.service import world as worlds

_E = ledgers.ENVIRONMENT
_EXPLAINED = frozenset({findings.Kind.FILE_UNEXPLAINED, findings.Kind.LAYER_WRITABLE})


class Source(enum.Enum):
    """What there is to begin with."""

    FILE = "a copy that was made at some moment"
    NOTHING = "no backup"
    ARCHIVE = "the archive's newest backup"
    NO_ARCHIVE = "a copy, without the archive"


class Unlike(AssertionError):
    """A rebuild isn't what it must be, by itself."""


def plan(seed: int) -> run.Plan:
    """Return the plan of a seed: that of an ordinary run, with copies of the catalog made in between."""
    ordinary = run.plan(seed)
    choice = random.Random(seed)
    copies = [actions.Step(step.life, step.caller, "back_up", 0) for step in ordinary.steps if choice.random() < 0.15]
    steps = [*ordinary.steps, *copies]
    choice.shuffle(steps)
    return dataclasses.replace(ordinary, steps=tuple(steps))


class _Back(ledgers.Disk):
    """A snapshot that had ended, or whose capture was never answered, and is there: it is deleted again."""

    def __init__(self, id_: str, known: ledgers.Disk | None, volume_id: str = "") -> None:
        super().__init__(id_, None, [contents.Contents.empty(1)], volume_id, may_fail=True, ending=True)
        self._known = known

    def require(self, data: bytes) -> None:
        """Raise WrongBytes unless it holds what it held."""
        if self._known is not None:
            self._known.require(data)


class Run(run.Run):
    """A run in an empty folder."""

    def __init__(self, plan: run.Plan, folder: pathlib.Path) -> None:
        super().__init__(plan, folder)
        self._choice = random.Random(plan.seed ^ 0x5EED)
        self._backup: pathlib.Path | None = None
        self._ended: dict[str, ledgers.Disk] = {}
        self._left: list[pathlib.Path] = []
        self._rebuilt = False
        self.rebuilds = 0
        end = self._ledger.end

        def note_end(kind: dict[str, ledgers.Disk], disk: ledgers.Disk) -> None:
            if not isinstance(disk, _Back):
                self._ended[disk.id] = disk
            end(kind, disk)

        self._ledger.end = note_end  # type: ignore[method-assign]

    def _take_all(self, caller: callers.Caller, steps: list[actions.Step], ended: threads.Event) -> None:
        for step in steps:
            if step.kind == "back_up":
                self._back_up()
            else:
                caller.take(step)
            self.figures.operations += 1
        ended.set()

    def _back_up(self) -> None:
        target = self._folder / f"backup-{self._ledger.number()}.sqlite3"
        try:
            copying.copy(self._settings.catalog_path, target)
        except errors.SnapdError:
            with contextlib.suppress(errors.SnapdError):
                copying.discard(target)
            return
        self._backup = target

    # --- the loss -----------------------------------------------------------------------------------------------------

    def _live(self, life: int) -> None:
        super()._live(life)
        there = self._settings.catalog_path.exists() and pools.is_there(self._settings.pool_path)
        if there and self._choice.random() < 0.7:
            self._lose()

    def _lose(self) -> None:
        source = self._choice.choice(list(Source))
        if self._backup is None and source in (Source.FILE, Source.NO_ARCHIVE):
            source = Source.NOTHING
        self._scheduler.note("lost", source.name)
        path = self._settings.catalog_path
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        options = rebuild.Options(
            backup=self._backup if source in (Source.FILE, Source.NO_ARCHIVE) else None,
            # The first daemon may have died before it made the archive.
            with_archive=source is not Source.NO_ARCHIVE and self._archive_is_there(),
        )
        if source is Source.NOTHING:
            self._hide_backups()
        now = self._clock.now()
        files_before = _pool_files(self._settings.pool_path)
        outcome = rebuild.rebuild(self._settings, options, now)
        self._require_same(options, outcome, now)
        if source is Source.NO_ARCHIVE and self._archive_is_there():
            # Once it answers again; what was archived since the backup is known by it alone.
            self._look_at(outcome)
            options = dataclasses.replace(options, with_archive=True, replace=True)
            outcome = rebuild.rebuild(self._settings, options, now)
            self._settings.catalog_path.with_name(outcome.set_aside).unlink()
        if _pool_files(self._settings.pool_path) != files_before:
            raise Unlike("a file of the pool was changed")
        self._look_at(outcome)
        logging.getLogger("snapd").info("rebuilt: %s", outcome)
        self._left = [self._settings.pool_path / entry.name for entry in outcome.report.left]
        self._rebuilt = True
        self._backup = None
        self.rebuilds += 1

    def _archive_is_there(self) -> bool:
        return (self._settings.archive_path / "repository.json").exists()

    def _hide_backups(self) -> None:
        """Have no backup in the archive; the daemon makes the next one."""
        area = self._settings.archive_path / "hosts" / self._settings.host / "environments" / "catalog" / "manifests"
        for manifest in area.glob("*") if area.is_dir() else ():
            manifest.unlink()

    def _require_same(self, options: rebuild.Options, first: rebuild.Outcome, now: datetime.datetime) -> None:
        """Raise Unlike unless the same is made once more."""
        before = _dump(self._settings.catalog_path)
        second = rebuild.rebuild(self._settings, dataclasses.replace(options, replace=True), now)
        if first.report != second.report:
            raise Unlike(f"{first.report} and then {second.report}")
        after = _dump(self._settings.catalog_path)
        for table, found in before.items():
            if found != after[table]:
                raise Unlike(f"{table}: {found} and then {after[table]}")
        (self._settings.catalog_path.with_name(second.set_aside)).unlink()

    def _look_at(self, outcome: rebuild.Outcome) -> None:
        """Raise Unlike if a checker finds more than the rebuild has told."""
        pool = pools.Pool(self._settings.pool_path, 1)
        with db.looked_into(self._settings.catalog_path) as connection:
            found = [*rows.look(connection), *files.strays(lambda: connection, pool)]
            found += [*files.missing(lambda: connection, pool, lambda: None)]
            found += [*files.damaged(lambda: connection, pool, lambda: None)]
        told = {entry.name for entry in outcome.report.left}
        for one in found:
            if one.kind is findings.Kind.IMAGE_LEAKS:
                continue
            if one.kind not in _EXPLAINED or (one.kind is findings.Kind.FILE_UNEXPLAINED and one.subject not in told):
                raise Unlike(f"{one.kind}: {one.problem}")

    # --- afterwards ---------------------------------------------------------------------------------------------------

    def _begin(self, service: Service) -> None:
        if self._rebuilt:
            self._rebuilt = False
            self._accept(service)
        super()._begin(service)

    def _accept(self, service: Service) -> None:
        """Take over what a rebuild can't know, and require all that it must."""
        with contextlib.suppress(errors.AlreadyExists):
            service.environments.create(worlds.request("CreateEnvironment", ""), _E, "", {}, None)
        self._ledger.operations.clear()
        query = model.Query(_E, "me", 1000, "", "", "")
        there = {volume.id: volume for volume in service.volumes.list(query).items}
        taken = {snapshot.id: snapshot for snapshot in service.snapshots.list(query).items}
        self._find_recovered(service, taken)
        for disk in (*self._ledger.volumes.values(), *self._ledger.snapshots.values()):
            disk.names = set()
            # What was never answered may have been cut off in the middle.
            disk.may_fail = disk.may_fail or not disk.present
        for id_ in sorted(there.keys() - self._ledger.volumes.keys()):
            self._end_again(service, there[id_])
        for id_ in sorted(taken.keys() - self._ledger.snapshots.keys()):
            self._ledger.gone.discard(id_)
            self._ledger.snapshots[id_] = _Back(id_, self._ended.get(id_), taken[id_].volume)
        for path in self._left:
            fsops.unlink(path)
        self._left = []
        self._repair(service)

    def _repair(self, service: Service) -> None:
        """Do what `fsck --images --repair` does: nothing else mends the leaks of writes that were under way."""
        core = service._core
        for found in list(files.damaged(core.catalog.reader, core.pool, lambda: None)):
            if found.kind is findings.Kind.IMAGE_LEAKS:
                repair.mend(core.catalog, core.pool, found, core.now())

    def _end_again(self, service: Service, volume: model.Volume) -> None:
        known = self._ended.get(volume.id)
        if known is not None and volume.state is model.VolumeState.READY:
            known.require(worlds.contents(service.transfers.export_volume(_E, volume.id)))
        service.volumes.delete(worlds.request("DeleteVolume"), _E, volume.id, "", False)

    def _find_recovered(self, service: Service, taken: dict[str, model.Snapshot]) -> None:
        """Know snapshots again whose names only the lost catalog knew."""
        nameless = [snapshot for id_, snapshot in sorted(taken.items()) if id_.startswith("recovered-")]
        # Those that must be there first: one that had ended may have held the same.
        for disk in sorted(self._ledger.snapshots.values(), key=lambda disk: not disk.present):
            if disk.id in taken:
                continue
            for snapshot in nameless:
                if snapshot.id in self._ledger.snapshots or snapshot.state is model.SnapshotState.FAILED:
                    continue
                try:
                    disk.require(worlds.contents(service.transfers.export_snapshot(_E, snapshot.id)))
                except contents.WrongBytes:
                    continue
                del self._ledger.snapshots[disk.id]
                disk.id = snapshot.id
                self._ledger.snapshots[disk.id] = disk
                break


def _pool_files(root: pathlib.Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in root.rglob("*"):
        if path.is_file():
            status = path.lstat()
            found[str(path)] = status.st_size, status.st_mtime_ns, status.st_mode
    return found


def _dump(path: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a catalog but for their revisions."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return {
            table: sorted(
                (
                    {key: value for key, value in dict(row).items() if key != "revision"}
                    for row in connection.execute(f"SELECT * FROM {table}")
                ),
                key=repr,
            )
            for table in (
                "identity",
                "environments",
                "layers",
                "points",
                "point_deltas",
                "volumes",
                "snapshots",
                "operations",
                "requests",
                "intents",
                "uploads",
                "pauses",
            )
        }
