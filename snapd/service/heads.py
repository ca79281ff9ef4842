"""Heads that are being written: one open writer per volume, closed whenever somebody needs the head to stand still.

intent    the head's uid; opened before the first byte, one for as long as the writer is open
step 1    bytes are written, and made durable when somebody asks           points qcow2.clusters-durable,
                                                                                  qcow2.tables-durable
commit    nothing but the end                                              point heads.closed
undo      leaked clusters are repaired before the next write, or at the next start

All methods are called with the volume's mutex held.
"""

import dataclasses
import logging
from collections import Counter
from contextlib import ExitStack

from snapd import errors, fsops, model
from snapd.catalog import journal, layers
from snapd.qcow2.checking import repair
from snapd.qcow2.writing import writer
from snapd.service import core as cores

KIND = "write"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class _Open:
    """A writer, what it holds, and the intent that says that its file may have leaks."""

    writer: writer.Writer
    intent: model.Intent
    stack: ExitStack


class Heads:
    """The open writers."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core
        self._open: dict[str, _Open] = {}
        self._losses: Counter[str] = Counter()

    def losses(self, volume_uid: str) -> int:
        """Return how often a volume's writer could not be closed well, so that what wasn't flushed before is lost."""
        return self._losses[volume_uid]

    def writer(self, volume: model.Volume) -> writer.Writer:
        """Return the writer of a volume's head, opened if it isn't. Raises errors.VolumeAttached."""
        assert volume.head_layer is not None
        self._core.require_detached(volume.uid)
        found = self._open.get(volume.uid)
        if found is None:
            found = self._open[volume.uid] = self._begin(volume.uid, volume.head_layer)
        return found.writer

    def _begin(self, volume_uid: str, head: str) -> _Open:
        core = self._core
        self._mend_left_overs(volume_uid)
        with core.catalog.transaction() as tx:
            intent = journal.open_intent(tx, KIND, volume_uid, {"layer": head}, core.now())
            parent = layers.get(tx.connection, head).parent
        with ExitStack() as stack:
            backing = None if parent is None else stack.enter_context(core.chain(parent))
            opened = writer.Writer.open(core.pool.path(head), backing)
            return _Open(opened, intent, stack.pop_all())

    def flush(self, volume_uid: str) -> None:
        """Make what was written to a volume durable; if its writer is closed by now, it is."""
        found = self._open.get(volume_uid)
        if found is not None:
            found.writer.flush()

    def close(self, volume_uid: str) -> None:
        """Flush and close a volume's writer if it is open. Raises errors.StorageFull, errors.StorageFailed."""
        found = self._open.pop(volume_uid, None)
        if found is None:
            return
        with found.stack:
            try:
                found.writer.close()
            except (OSError, errors.SnapdError):
                # What was flushed before is safe; the intent stays and has the leaks mended before the next write.
                self._losses[volume_uid] += 1
                found.writer.abandon()
                raise
        with self._core.catalog.transaction() as tx:
            journal.close_intent(tx, found.intent)
        fsops.point("heads.closed")

    def settle(self, volume_uid: str) -> None:
        """Have a volume's head closed and without leaks, before it is frozen or lent.

        Raises as `close` does, and errors.VolumeAttached.
        """
        self._core.require_detached(volume_uid)
        self.close(volume_uid)
        self._mend_left_overs(volume_uid)

    def abandon(self, volume_uid: str) -> None:
        """Close a volume's writer if it is open, whatever becomes of what it holds: the head is about to go."""
        found = self._open.pop(volume_uid, None)
        if found is not None:
            with found.stack:
                found.writer.abandon()

    def _mend_left_overs(self, volume_uid: str) -> None:
        for left_over in journal.intents_of(self._core.catalog.reader(), volume_uid):
            if left_over.kind == KIND:
                self.mend(left_over)

    def mend(self, intent: model.Intent) -> int:
        """Repair the leaks that an interrupted write left in a head, and return how many clusters they were."""
        layer = intent.payload["layer"]
        path = self._core.pool.path(layer)
        leaked = repair.repair_leaks(path) if path.exists() else 0
        if leaked:
            _log.info("repaired leaked clusters of an interrupted write", extra={"layer": layer, "clusters": leaked})
        with self._core.catalog.transaction() as tx:
            journal.close_intent(tx, intent)
        return leaked

    def close_all(self) -> None:
        """Close every writer, as the last thing before the end; nobody may be writing."""
        for volume_uid in list(self._open):
            try:
                self.close(volume_uid)
            except errors.SnapdError as error:
                # Nobody was told that it is safe, and the next start mends the leaks.
                _log.warning("a head could not be flushed: %s", error, extra={"volume": volume_uid})
