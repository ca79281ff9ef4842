"""What happens at start, before anybody is served: every open intent is finished or undone.

Run twice it does the same as run once. What can't be explained is reported and left alone.
"""

import dataclasses
import logging
from collections.abc import Mapping

from snapd import errors, model
from snapd.catalog import journal, layers
from snapd.service import core as cores
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


@dataclasses.dataclass(slots=True)
class Report:
    """What recovery found."""

    finished: list[str] = dataclasses.field(default_factory=list)
    """Kinds of intents that were run to their end."""
    failed: list[str] = dataclasses.field(default_factory=list)
    """Kinds of intents that were undone."""
    resumed: list[model.Intent] = dataclasses.field(default_factory=list)
    """Intents that go on in the background."""
    strays: list[str] = dataclasses.field(default_factory=list)
    """Files of the pool that nothing explains."""


def recover(core: cores.Core, jobs: running.Jobs, heads: heading.Heads) -> Report:
    """Finish or undo what an earlier process left, and return what there was."""
    report = Report()
    for intent in journal.intents(core.catalog.reader()):
        extra: Mapping[str, object] = {"intent": intent.number, "kind": intent.kind, "subject": intent.subject}
        _log.info("found an open intent", extra=extra)
        if intent.kind == import_volume.UPLOAD:
            continue
        if intent.kind == heading.KIND:
            heads.mend(intent)
            report.finished.append(intent.kind)
        elif intent.kind in _LATER and running.INLINE not in intent.payload:
            report.resumed.append(intent)
        else:
            _finish(jobs, intent, report)
    core.sweep()
    _remove_unclaimed_uploads(core)
    report.strays = [str(path) for path in core.pool.strays(_known(core))]
    for path in report.strays:
        _log.warning("a file of the pool that nothing explains is left alone", extra={"path": path})
    return report


def _finish(jobs: running.Jobs, intent: model.Intent, report: Report) -> None:
    try:
        jobs.run_now(intent)
        report.finished.append(intent.kind)
    except errors.SnapdError as error:
        _log.warning("an open intent could not be finished: %s", error, extra={"kind": intent.kind})
        report.failed.append(intent.kind)


def _remove_unclaimed_uploads(core: cores.Core) -> None:
    """Remove uploaded images whose upload has ended: a kill came between its end and their removal."""
    reader = core.catalog.reader()
    claimed = {intent.subject for intent in journal.intents(reader)}
    for volume_uid in core.pool.staged() - claimed:
        core.pool.remove_staging(volume_uid)


def _known(core: cores.Core) -> set[str]:
    reader = core.catalog.reader()
    return (
        layers.uids(reader)
        | {row.volume_uid for row in journal.uploads(reader)}
        | {intent.subject for intent in journal.intents(reader)}
    )
