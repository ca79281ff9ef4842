"""What happens at start, before anybody is served: every open intent is finished or undone.

Run twice it does the same as run once. What else there may be that nothing explains is the comparison's business.
"""

import dataclasses
import enum
import logging
from collections.abc import Mapping

from snapd import errors, model
from snapd.catalog import journal, snapshots, volumes
from snapd.service import core as cores
from snapd.service import deciding, names, problems
from snapd.service import heads as heading
from snapd.service import jobs as running
from snapd.service.intents import archive, collect, import_volume, scrub

_log = logging.getLogger(__name__)

_LATER = frozenset({archive.KIND, "create_volume", "revert", import_volume.KIND, "delete_snapshot"}) | {
    scrub.ENVIRONMENT,
    scrub.SNAPSHOT,
    collect.KIND,
}
"""Kinds that may take long: they are run once the daemon serves, unless a caller waited for them."""


class Outcome(enum.StrEnum):
    """What became of a change that was found half done."""

    FINISHED = "FINISHED"
    UNDONE = "UNDONE"
    RESUMED = "RESUMED"
    WAITING = "WAITING"
    """A client goes on with its upload, or its time runs out."""
    UNDECIDED = "UNDECIDED"
    """The storage daemon that knows what was done doesn't answer; the next call about the volume asks it again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Recovered:
    """A change that was found half done."""

    intent: model.Intent
    target: str
    """Resource name of what is changed, or '' if it has none."""
    outcome: Outcome
    problem: model.Problem | None = None
    """Why it was undone, or isn't decided."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What recovery found, in the order in which it was begun."""

    changes: tuple[Recovered, ...]

    def of(self, outcome: Outcome) -> list[model.Intent]:
        """Return the intents with an outcome."""
        return [change.intent for change in self.changes if change.outcome is outcome]


def recover(core: cores.Core, jobs: running.Jobs, heads: heading.Heads, decider: deciding.Decider) -> Report:
    """Finish or undo what an earlier process left, and return what there was. Storage daemons are adopted."""
    decider.hold()
    changes = [_recover(core, jobs, heads, decider, intent) for intent in journal.intents(core.catalog.reader())]
    decider.adopt()
    core.sweep()
    _remove_unclaimed_uploads(core)
    return Report(tuple(changes))


def _recover(
    core: cores.Core,
    jobs: running.Jobs,
    heads: heading.Heads,
    decider: deciding.Decider,
    intent: model.Intent,
) -> Recovered:
    extra: Mapping[str, object] = {"intent": intent.number, "kind": intent.kind, "subject": intent.subject}
    _log.info("found an open intent", extra=extra)
    before = _target(core, intent)
    if intent.kind == import_volume.UPLOAD:
        return Recovered(intent, before, Outcome.WAITING)
    if intent.kind in _LATER and running.INLINE not in intent.payload:
        return Recovered(intent, before, Outcome.RESUMED)
    if intent.kind in deciding.KINDS:
        return _decide(core, decider, intent, before)
    problem = None
    if intent.kind == heading.KIND:
        heads.mend(intent)
    else:
        try:
            jobs.run_now(intent)
        except errors.SnapdError as error:
            _log.warning("an open intent could not be finished: %s", error, extra={"kind": intent.kind})
            problem = problems.describe(error)
    # What is made appears with the end of its change, and what is deleted is gone by then.
    target = before or _target(core, intent)
    return Recovered(intent, target, Outcome.FINISHED if problem is None else Outcome.UNDONE, problem)


def _decide(core: cores.Core, decider: deciding.Decider, intent: model.Intent, target: str) -> Recovered:
    """Have the storage daemon that was asked say what became of it, if it is there and answers."""
    try:
        finished = decider.decide(intent)
    except errors.SnapdError as error:
        _log.warning("an open intent could not be decided: %s", error, extra={"kind": intent.kind})
        outcome = Outcome.UNDECIDED if journal.is_open(core.catalog.reader(), intent) else Outcome.FINISHED
        return Recovered(intent, target, outcome, problems.describe(error))
    return Recovered(intent, target, Outcome.FINISHED if finished else Outcome.UNDONE)


def _target(core: cores.Core, intent: model.Intent) -> str:
    """Return the resource name of what an intent changes, or '' if it is a layer, or gone."""
    reader = core.catalog.reader()
    volume = volumes.by_uid(reader, intent.subject)
    if volume is not None:
        return names.volume(volume.environment, volume.id)
    snapshot = snapshots.by_uid(reader, intent.subject)
    return "" if snapshot is None else names.snapshot(snapshot.environment, snapshot.id)


def _remove_unclaimed_uploads(core: cores.Core) -> None:
    """Remove uploaded images whose upload has ended: a kill came between its end and their removal."""
    reader = core.catalog.reader()
    claimed = {intent.subject for intent in journal.intents(reader)}
    for volume_uid in core.pool.staged() - claimed:
        core.pool.remove_staging(volume_uid)
