"""Bringing a point back to primary storage: from the archive into a fresh layer that stands on nothing.

It is a part of the intents that need a point on which to put a head. They reserve a layer's row for it in their own
transaction, call `bring_back` as a step, and `attach` it in their commit.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from snapd import errors, fsops, model
from snapd.archive import manifest as manifests
from snapd.catalog import db, layers, points, snapshots
from snapd.copier import control as controls
from snapd.copier import restore
from snapd.qcow2.writing import writer
from snapd.service import core as cores
from snapd.service import health, names


def reserve(tx: db.Transaction, core: cores.Core, point: model.Point) -> str:
    """Insert the row of the layer into which a point will be restored if it has none, and return its uid or ''."""
    if point.layer is not None:
        return ""
    layer = core.new_layer(None, point.size_bytes)
    layers.insert(tx, layer)
    return layer.uid


@contextmanager
def on_primary(core: cores.Core, point_uid: str, reserved: str, head: str, control: controls.Control) -> Iterator[str]:
    """Have a point on primary storage for the length of a block, in which the caller commits; yields its layer.

    `head` is what will stand on it. The point's snapshot isn't deleted meanwhile. Raises errors.NotFound if it was
    before, errors.SnapshotDamaged, errors.ArchiveUnreachable, errors.StorageFull.
    """
    with core.locks.holding(point_uid):
        with core.catalog.transaction() as tx:
            point = points.find(tx.connection, point_uid)
            if point is not None and point.layer is not None:
                # From now on the head's row keeps the layer, whatever becomes of what else stands on it.
                layers.set_parent(tx, head, point.layer)
        if point is None:
            raise errors.NotFound(resource_type="snapshot", name=f"of point {point_uid}")
        if point.layer is None:
            assert reserved
            _bring_back(core, point, reserved, control)
        yield point.layer or reserved


def _bring_back(core: cores.Core, point: model.Point, uid: str, control: controls.Control) -> None:
    archived = [
        snapshot
        for snapshot in snapshots.of_point(core.catalog.reader(), point.uid)
        if snapshot.archive.state is model.ArchiveState.ARCHIVED
    ]
    if not archived:
        raise errors.NotFound(resource_type="snapshot", name=f"of point {point.uid}")
    if core.pool.is_made(uid):
        return
    snapshot = archived[0]
    place = model.ArchivePlace(core.settings.host, snapshot.environment_uid, snapshot.uid)
    name = names.snapshot(snapshot.environment, snapshot.id)
    with health.telling(core, name, place, snapshot.size_bytes), core.archived(snapshot) as manifest:
        fill(core, uid, manifest, control)
    core.pool.freeze(uid)


def fill(
    core: cores.Core,
    uid: str,
    manifest: manifests.Manifest,
    control: controls.Control,
    description: bytes | None = None,
) -> None:
    """Make the file of a layer that stands on nothing, with what a manifest holds; a head's header describes it."""
    # Given up in time, so that there is room to write down that it was.
    control.heed(core.pool.require_room)
    control.check()
    temporary = core.pool.prepare(layers.get(core.catalog.reader(), uid), description)
    with writer.Writer.open(temporary) as target:
        restore.restore(manifest, target, core.settings.copy_threads, control)
    fsops.point("restore.before_publish")
    core.pool.publish(uid)


def attach(tx: db.Transaction, point_uid: str, layer: str, reserved: str) -> None:
    """In a commit: give the point the layer that was restored, or doom the reserved one if it wasn't used."""
    if not reserved:
        return
    if layer == reserved:
        layers.set_state(tx, reserved, model.LayerState.FROZEN)
        points.set_layer(tx, point_uid, reserved)
    else:
        layers.doom(tx, reserved)


def withdraw(tx: db.Transaction, head: str, reserved: str) -> None:
    """In an undo: doom a head and the layer that was reserved, and let go of what the head would have stood on."""
    below = layers.get(tx.connection, head).parent
    layers.doom(tx, head)
    layers.set_parent(tx, head, None)
    layers.doom_unneeded(tx, below)
    if reserved:
        layers.doom(tx, reserved)
