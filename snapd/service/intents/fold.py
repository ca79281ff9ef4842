"""Fold a frozen layer that nothing needs into the only layer that stands on it, whichever way copies fewer bytes.

    intent    the lower layer FOLDING and taken from its point; both           points history.delta_recorded,
              points' deltas are recorded before it                                   fold.begun
    step 1    down: both files say what is done to them, by their modes        point fold.marked
    step 2    up: the child receives what it lacks;                            points qcow2.clusters-durable,
              down: the lower receives what the child has                             qcow2.tables-durable,
                                                                                      fold.copied
    step 3    up: the child's header names the lower's parent;                 points fold.relinked,
              down: the lower's file takes the child's name                           fold.before_commit
    commit    the child stands on the lower's parent, the lower is doomed      point fold.committed
    undo      none: what was copied is what shows through anyway, so it is run again

The caller has both layers to itself (pins), since files are changed in place.
"""

from contextlib import ExitStack

from snapd import fsops, model
from snapd.catalog import db, journal, layers, points
from snapd.copier import control as controls
from snapd.qcow2.checking import repair
from snapd.qcow2.reading import chain as chains
from snapd.qcow2.reading import image
from snapd.qcow2.writing import create, fold
from snapd.service import core as cores
from snapd.service import descriptions

KIND = "fold"

LOWER = "lower"
"""Payload: uid of the layer that goes."""
CHILD = "child"
"""Payload: uid of the layer that stays."""
DIRECTION = "direction"
"""Payload: UP or DOWN, decided once."""
UP = "up"
DOWN = "down"


def begin(core: cores.Core, lower: str, child: str) -> model.Intent | None:
    """Open the intent, or return None if the two can't be folded any more. The caller has them to itself."""
    direction = DOWN if core.pool.allocated_bytes(lower) > core.pool.allocated_bytes(child) else UP
    with core.catalog.transaction() as tx:
        if layers.foldable(tx.connection, lower) != (lower, child):
            return None
        point = points.of_layer(tx.connection, lower)
        if point is not None:
            points.set_layer(tx, point.uid, None)
            points.forget_unused(tx, point.uid)
        layers.set_state(tx, lower, model.LayerState.FOLDING)
        return journal.open_intent(tx, KIND, child, {LOWER: lower, CHILD: child, DIRECTION: direction}, core.now())


class Handler:
    """The steps."""

    reversible = False

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Fold."""
        del control
        core = self._core
        reader = core.catalog.reader()
        lower = layers.get(reader, intent.payload[LOWER])
        child = layers.find(reader, intent.payload[CHILD])
        wanted = child is not None and child.state is not model.LayerState.DOOMED
        if child is not None and wanted:
            if intent.payload[DIRECTION] == UP:
                self._up(lower, child)
            elif core.pool.path(lower.uid).exists():
                self._down(lower, child)
            else:
                self._settle_names(lower, child)
        fsops.point("fold.before_commit")
        with core.catalog.transaction() as tx:
            layers.set_parent(tx, intent.payload[CHILD], lower.parent)
            layers.doom(tx, lower.uid)
            # The child may have been doomed meanwhile; that walk ended at the lower one, and goes on here.
            layers.doom_unneeded(tx, lower.parent)
            journal.close_intent(tx, intent)
        fsops.point("fold.committed")
        if wanted:
            core.pool.freeze(intent.payload[CHILD], durable=True)

    def _mend(self, uid: str, *, was_frozen: bool) -> None:
        if not was_frozen:
            # An earlier try was here, and may have left leaks.
            repair.repair_leaks(self._core.pool.path(uid))

    def _beneath(self, stack: ExitStack, lower: model.Layer) -> chains.Chain | None:
        return None if lower.parent is None else stack.enter_context(self._core.chain(lower.parent))

    def _up(self, lower: model.Layer, child: model.Layer) -> None:
        pool = self._core.pool
        path = pool.path(child.uid)
        was_frozen = pool.is_frozen(child.uid)
        pool.thaw(child.uid)
        self._mend(child.uid, was_frozen=was_frozen)
        with ExitStack() as stack:
            below = stack.enter_context(image.Image.open(pool.path(lower.uid)))
            fold.fold_up(below, path, self._beneath(stack, lower))
        fsops.point("fold.copied")
        self._describe(child.uid, child, lower)
        create.set_backing_name(path, pool.backing_name(lower.parent))
        fsops.point("fold.relinked")

    def _down(self, lower: model.Layer, child: model.Layer) -> None:
        pool = self._core.pool
        path = pool.path(lower.uid)
        was_frozen = pool.is_frozen(lower.uid)
        pool.begin_merge(lower.uid, child.uid)
        fsops.point("fold.marked")
        self._mend(lower.uid, was_frozen=was_frozen)
        with ExitStack() as stack:
            above = stack.enter_context(image.Image.open(pool.path(child.uid)))
            fold.fold_down(above, path, self._beneath(stack, lower))
        fsops.point("fold.copied")
        self._describe(lower.uid, child, lower)
        with fsops.translated(path):
            fsops.rename(path, pool.path(child.uid))
        self._settle_names(lower, child)
        fsops.point("fold.relinked")

    def _describe(self, uid: str, child: model.Layer, lower: model.Layer) -> None:
        """Have the header of the file that stays say whose it is, and what is known of the layer on which it stands."""
        pool = self._core.pool
        texts = descriptions.folded(pool.description(child.uid), pool.description(lower.uid))
        # Where none fits, as in a file of a release that kept no room, a rebuilt catalog knows less.
        any(pool.describe(uid, text) for text in texts)

    def _settle_names(self, lower: model.Layer, child: model.Layer) -> None:
        """Make durable that the lower layer's file has the child's name; an earlier try may have died before it was."""
        pool = self._core.pool
        with fsops.translated(pool.path(child.uid)):
            for layer in (child, lower):
                fsops.sync_directory(pool.path(layer.uid).parent)

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Never called: the lower layer may be changed already, so only going on is right."""
        raise NotImplementedError
