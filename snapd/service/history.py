"""Deltas of points, and what an archive run may build upon.

A point's delta is the allocation of its layer until it is recorded in the catalog. It is recorded before the layer is
archived away, folded, or lost to descendants that still follow the point.
"""

import dataclasses

from snapd import blockmap, errors, fsops, model
from snapd.catalog import points, snapshots
from snapd.copier import delta as deltas
from snapd.copier import record
from snapd.qcow2.reading import image
from snapd.service import core as cores


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    """An archived snapshot of an earlier point of the same environment, and the points between."""

    snapshot_uid: str
    path: tuple[model.Point, ...]
    """The points after the base, up to and with the one to be archived."""


def nearest_base(core: cores.Core, point: model.Point) -> Base | None:
    """Return the nearest archived ancestor of a point whose contents can be told apart from it by deltas."""
    reader = core.catalog.reader()
    path: list[model.Point] = []
    for ancestor in points.ancestors(reader, point.uid):
        if ancestor.environment_uid != point.environment_uid:
            return None
        if ancestor.uid != point.uid:
            for snapshot in snapshots.of_point(reader, ancestor.uid):
                usable = snapshot.health is model.HealthState.OK and snapshot.state is model.SnapshotState.COMPLETED
                if snapshot.archive.state is model.ArchiveState.ARCHIVED and usable:
                    return Base(snapshot.uid, tuple(path))
        if not ancestor.delta_recorded and ancestor.layer is None:
            # Its delta went with its layer: what lies before it can't be built upon.
            return None
        path.append(ancestor)
    return None


def difference(core: cores.Core, base: Base) -> record.Delta:
    """Return what differs from the base, by window, out of the deltas of the points between.

    They are all recorded first: points may be merged while the archive run goes on, which keeps what recorded deltas
    say together, and a window of all of them is read at one instant. Raises errors.Corrupt if one is lost.
    """
    for point in base.path:
        record_delta(core, point.uid)
        recorded = points.find(core.catalog.reader(), point.uid)
        if recorded is not None and not recorded.delta_recorded:
            raise errors.Corrupt(what=f"point {point.uid}", problem="its delta could not be recorded")
    uids = [point.uid for point in base.path]

    def window(start: int, length: int) -> blockmap.BlockMap:
        changed = blockmap.empty()
        for delta in points.deltas(core.catalog.reader(), uids, start):
            changed = blockmap.overlay(changed, delta)
        return blockmap.clip(changed, start, length)

    return window


def record_delta(core: cores.Core, point_uid: str) -> None:
    """Write a point's delta into the catalog if it isn't there. Waits while the point's layer is being folded."""
    layer = _unrecorded_layer(core, point_uid)
    if layer is None:
        return
    with core.pins.reading([layer]):
        if _unrecorded_layer(core, point_uid) != layer:
            # It was recorded, folded or removed before it was pinned.
            return
        with image.Image.open(core.pool.path(layer)) as opened:
            windows = list(deltas.windows_of(opened))
        with core.catalog.transaction() as tx:
            if points.find(tx.connection, point_uid) is not None:
                points.record_delta(tx, point_uid, windows)
        fsops.point("history.delta_recorded")


def _unrecorded_layer(core: cores.Core, point_uid: str) -> str | None:
    """Return the layer whose allocation is a point's delta, or None if the delta is recorded or lost."""
    point = points.find(core.catalog.reader(), point_uid)
    return None if point is None or point.delta_recorded else point.layer


def merge(core: cores.Core, point_uid: str, child_uid: str) -> None:
    """Join the delta of a point that nothing needs into that of the only one that follows it, and forget the point."""
    reader = core.catalog.reader()
    point, child = points.find(reader, point_uid), points.find(reader, child_uid)
    if point is None or child is None:
        return
    windows: list[tuple[int, bytes]] = []
    for start, _ in blockmap.windows(max(point.size_bytes, child.size_bytes)):
        below, above = points.delta(reader, point_uid, start), points.delta(reader, child_uid, start)
        joined = blockmap.overlay(below, above)
        if len(joined):
            windows.append((start, blockmap.encode_delta(joined)))
    with core.catalog.transaction() as tx:
        if (point_uid, child_uid) in points.mergeable(tx.connection):
            points.record_delta(tx, child_uid, windows)
            points.set_parent(tx, child_uid, point.parent)
            points.forget_unused(tx, point_uid)
