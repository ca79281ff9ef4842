"""The comparison of catalog, pool and archive after a start: a thread that looks once and tells.

It changes nothing but the permissions of frozen layers. It begins when the daemon serves. Of an archive that is away it
takes note, and tries again until it has seen it.
"""

import dataclasses
import datetime
import logging
import threading
from collections.abc import Iterator

from snapd import clock as clocks
from snapd import errors, model
from snapd.catalog import snapshots
from snapd.copier import control as controls
from snapd.service import core as cores
from snapd.service import problems
from snapd.service.inspection import copies, files, findings, repair, rows

_log = logging.getLogger(__name__)

AGAIN = datetime.timedelta(minutes=5)
"""When an archive that couldn't be compared is tried again."""
_MOST_KEPT = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """What the comparison has found so far."""

    found: tuple[findings.Finding, ...] = ()
    """What is not as it should be: the first of it."""
    count: int = 0
    """How much there is of it."""
    pool: datetime.datetime | None = None
    """When catalog and pool had been compared."""
    archive: datetime.datetime | None = None
    """When catalog and archive had been."""
    archive_problem: model.Problem | None = None
    """Why the archive could not be compared."""


class Comparison:
    """The thread."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core
        self._changed = threading.Condition()
        self._stopping = False
        self._compared = Compared()
        self._thread = threading.Thread(target=self._run, name="comparison")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def compared(self) -> Compared:
        """Return what has been found so far."""
        return self._compared

    def _run(self) -> None:
        try:
            self._compare_pool()
            while not self._compare_archive():
                self._wait()
        except controls.Stopped:
            return
        except Exception:
            # The end of a thread is a boundary: nothing depends on what it would have told.
            _log.exception("the comparison of catalog, pool and archive was interrupted")

    def _compare_pool(self) -> None:
        core = self._core
        read = core.catalog.reader
        self._tell(rows.look(read()))
        self._tell(finding for finding in files.strays(read, core.pool) if not self._is_remnant(finding))
        self._tell(finding for finding in files.missing(read, core.pool, self._check) if not self._mended(finding))
        self._compared = dataclasses.replace(self._compared, pool=core.now())

    def _is_remnant(self, finding: findings.Finding) -> bool:
        """Remove the half-made file of a layer that has no row any more; False for any other file.

        btrfs (Linux 6.18) was seen to bring one back, under the name under which it was synced first, when the power
        was cut after it was renamed, removed and both its folders' changes were synced. Nobody ever saw it whole.
        """
        try:
            removed = self._core.pool.remove_half_made(self._core.pool.root / finding.subject)
        except errors.StorageFailed:
            return False
        if removed:
            _log.info("%s: it was half made, and is removed", finding.problem)
        return removed

    def _mended(self, finding: findings.Finding) -> bool:
        """Take the permission to write from a frozen layer again, which a power cut may have given back; else False."""
        if finding.kind is not findings.Kind.LAYER_WRITABLE:
            return False
        with self._core.pins.alone([finding.subject]) as alone:
            # Else somebody is reading it, or folds it and takes the permission when that is done.
            if not alone:
                return False
            try:
                repair.freeze(self._core.pool, finding.subject)
            except errors.StorageFailed:
                # It may have gone since.
                return True
            except (errors.Corrupt, errors.ImageRefused, errors.ImageBusy) as error:
                _log.warning("%s, and it stays so: %s", finding.problem, error, extra={"subject": finding.subject})
                return False
            _log.info("%s: made read-only again", finding.problem, extra={"subject": finding.subject})
        return True

    def _compare_archive(self) -> bool:
        """Compare, and say whether it could be done."""
        core = self._core
        try:
            found = list(copies.look(core.catalog.reader, core.repository, {cores.CATALOG_AREA}, self._check))
        except errors.SnapdError as error:
            self._compared = dataclasses.replace(self._compared, archive_problem=problems.describe(error))
            return False
        self._tell(iter(found))
        self._compared = dataclasses.replace(self._compared, archive=core.now(), archive_problem=None)
        return True

    def _tell(self, found: Iterator[findings.Finding]) -> None:
        for finding in found:
            level = logging.ERROR if finding.kind.is_loss else logging.WARNING
            extra = {"finding": finding.kind, "subject": finding.subject, "affected": list(finding.affected)}
            _log.log(level, "%s", finding.problem, extra=extra)
            self._have_noted(finding)
            before = self._compared
            kept = (*before.found, finding) if before.count < _MOST_KEPT else before.found
            self._compared = dataclasses.replace(before, found=kept, count=before.count + 1)

    def _have_noted(self, finding: findings.Finding) -> None:
        """Have the scrubber note the damage with a snapshot that the archive has lost."""
        if finding.kind is findings.Kind.COPY_MISSING:
            snapshot = snapshots.by_uid(self._core.catalog.reader(), finding.subject)
            if snapshot is not None:
                self._core.suspects.add(snapshot.environment_uid)

    def _check(self) -> None:
        if self._stopping:
            raise controls.Stopped(parked=True)

    def _wait(self) -> None:
        core = self._core
        rest = clocks.span(core.clock, AGAIN)
        with self._changed:
            while not rest.is_over(core.now()):
                self._check()
                core.clock.wait(self._changed, rest.until)
