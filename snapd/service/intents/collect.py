"""Collect the archive's garbage of an environment: what a caller asked for, so that its operation outlives a kill.

intent    operation, request                                               point collect.begun
step 1    packs that nothing needs are removed                             point archive.collect-deleted
step 2    packs of which little is alive are emptied into others           points archive.repack-removed,
                                                                                  collect.before_commit
commit    the operation has what was freed                                 point collect.committed
undo      nothing: what was removed was garbage
"""

from snapd import fsops, model
from snapd.archive import collection
from snapd.catalog import db, journal, operations
from snapd.copier import control as controls
from snapd.service import collecting
from snapd.service import core as cores

KIND = "collect"


class Handler:
    """The steps."""

    reversible = True

    def __init__(self, core: cores.Core, collector: collecting.Collector) -> None:
        self._core = core
        self._collector = collector

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Collect."""
        core = self._core
        control.begin("COLLECTING")
        # Somebody may be reading there: then all of it is postponed, and the keeper does it.
        collected = self._collector.collect(intent.subject, repack=True)
        fsops.point("collect.before_commit")
        with core.catalog.transaction() as tx:
            operations.end(tx, intent.operation, core.now(), result=_result(collected))
            journal.close_intent(tx, intent)
        fsops.point("collect.committed")

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Leave all as it is."""


def _result(collected: collection.Collected | None) -> dict[str, int | bool | list[str]]:
    """Return what the operation answers, by the API's names."""
    done = collection.Collected() if collected is None else collected
    return {
        "deleted_pack_count": done.packs_deleted,
        "moved_pack_count": done.packs_moved,
        "freed_bytes": done.bytes_freed,
        "postponed": collected is None or done.packs_postponed > 0,
    }
