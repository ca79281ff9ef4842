"""Deltas of points, and what an archive run may build upon.

A point's delta is the allocation of its layer until it is recorded in the catalog. It is recorded before the layer is
archived away, folded, or lost to descendants that still follow the point.
"""

import dataclasses
from contextlib import ExitStack

from snapd import blockmap, model
from snapd.catalog import points, snapshots
from snapd.copier import delta as deltas
from snapd.copier import record
from snapd.qcow2 import image
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


def difference(core: cores.Core, base: Base, stack: ExitStack) -> record.Delta:
    """Return what differs from the base, by window. Layers that are read are opened on the stack."""
    catalog = core.catalog
    images: dict[str, image.Image] = {}
    for point in base.path:
        if not point.delta_recorded and point.layer is not None:
            images[point.uid] = stack.enter_context(image.Image.open(core.pool.path(point.layer)))

    def window(start: int, length: int) -> blockmap.BlockMap:
        changed = blockmap.empty()
        for point in base.path:
            opened = images.get(point.uid)
            one = (
                points.delta(catalog.reader(), point.uid, start)
                if opened is None
                else opened.block_map(start, length).without_location()
            )
            changed = blockmap.overlay(one, changed)
        return changed

    return window


def record_delta(core: cores.Core, point_uid: str) -> None:
    """Write a point's delta into the catalog if it isn't there. The point's layer must not be folded meanwhile."""
    point = points.get(core.catalog.reader(), point_uid)
    if point.delta_recorded or point.layer is None:
        return
    with image.Image.open(core.pool.path(point.layer)) as layer:
        windows = list(deltas.windows_of(layer))
    with core.catalog.transaction() as tx:
        points.record_delta(tx, point_uid, windows)


def merge(core: cores.Core, point_uid: str, child_uid: str) -> None:
    """Join the delta of a point that nothing needs into that of the only one that follows it, and forget the point."""
    reader = core.catalog.reader()
    point, child = points.get(reader, point_uid), points.get(reader, child_uid)
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
