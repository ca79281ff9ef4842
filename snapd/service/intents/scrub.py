"""Check what the archive has, of an environment or of one snapshot: what a caller asked for, at the scrubber's pace.

intent    operation, request                                               points scrub.begun, verify_snapshot.begun
step 1    packs that weren't checked since the intent are read and         point scrub.checked
          checked; their times are in the archive's index
step 2    what damage hits is noted with the snapshots                     points scrub.before_commit,
                                                                                  verify_snapshot.before_commit
commit    the operation has what was found                                 points scrub.committed,
                                                                                  verify_snapshot.committed
undo      nothing: what was checked was checked
"""

from snapd import errors, fsops, model
from snapd.archive import index, scrub
from snapd.archive.backends import paced
from snapd.catalog import db, journal, operations, snapshots
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import health, names, scrubber

ENVIRONMENT = "scrub"
"""Kind: the subject is an environment."""
SNAPSHOT = "verify_snapshot"
"""Kind: the subject is a snapshot."""

_MOST_NAMES = 1_000


class EnvironmentHandler:
    """The steps for an environment."""

    reversible = True

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Check all of it."""
        core = self._core
        upkeep = core.repository.upkeep
        core.repository.require_usable()
        _check(core, intent, intent.subject, upkeep.packs(intent.subject), control)
        hit = health.note(core, intent.subject)
        result = self._result(intent, upkeep.packs(intent.subject), hit)
        fsops.point("scrub.before_commit")
        control.check()
        with core.catalog.transaction() as tx:
            operations.end(tx, intent.operation, core.now(), result=result)
            journal.close_intent(tx, intent)
        fsops.point("scrub.committed")

    def _result(
        self, intent: model.Intent, packs: list[index.Pack], hit: list[str]
    ) -> dict[str, int | bool | list[str]]:
        """Return what the operation answers, by the API's names; what was checked before a restart counts too."""
        reader = self._core.catalog.reader()
        damaged = [one for one in packs if one.state is index.State.DAMAGED]
        sound = [one for one in packs if one.checked is not None and one.checked >= intent.created]
        checked = {one.pack_id: one.size_bytes for one in (*damaged, *sound)}
        found = [snapshots.by_uid(reader, uid) for uid in hit[:_MOST_NAMES]]
        return {
            "pack_count": len(checked),
            "checked_bytes": sum(checked.values()),
            "damaged_pack_count": len(damaged),
            "damaged_snapshots": [names.snapshot(one.environment, one.id) for one in found if one is not None],
        }

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Leave all as it is."""


class SnapshotHandler:
    """The steps for one snapshot."""

    reversible = True

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Check what it consists of. Raises errors.SnapshotDamaged, errors.NotFound if it was deleted meanwhile."""
        core = self._core
        core.repository.require_usable()
        snapshot = self._snapshot(intent)
        _check(core, intent, snapshot.environment_uid, self._packs(snapshot), control)
        health.note(core, snapshot.environment_uid)
        snapshot = self._snapshot(intent)
        if snapshot.damage is not None:
            raise errors.SnapshotDamaged(
                name=names.snapshot(snapshot.environment, snapshot.id),
                damaged_bytes=snapshot.damage.total_bytes,
                ranges=str(snapshot.damage),
            )
        fsops.point("verify_snapshot.before_commit")
        control.check()
        with core.catalog.transaction() as tx:
            operations.end(tx, intent.operation, core.now())
            journal.close_intent(tx, intent)
        fsops.point("verify_snapshot.committed")

    def _snapshot(self, intent: model.Intent) -> model.Snapshot:
        found = snapshots.by_uid(self._core.catalog.reader(), intent.subject)
        if found is None:
            raise errors.NotFound(resource_type="snapshot", name=intent.subject)
        return found

    def _packs(self, snapshot: model.Snapshot) -> list[index.Pack]:
        try:
            return self._core.repository.upkeep.packs_of(snapshot.environment_uid, snapshot.uid)
        except (errors.Corrupt, errors.NotFound):
            # Its manifest is lost, so all of it is: that is noted next.
            return []

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Leave all as it is."""


def _check(
    core: cores.Core, intent: model.Intent, environment_uid: str, packs: list[index.Pack], control: controls.Control
) -> None:
    """Read and check those of some packs that weren't since the intent was opened."""
    due = scrub.due(packs, intent.created)
    control.begin("CHECKING", sum(one.size_bytes for one in due))
    store = paced.PacedBackend(core.repository.store, core.scrub_pace, control.wait)
    for found in core.repository.upkeep.check(environment_uid, due, control.check, store):
        control.advance(found.size_bytes)
        if found.problem:
            scrubber.tell_damage(environment_uid, found)
    fsops.point("scrub.checked")
