"""Which layer shows which point, and what lies before a point.

That a frozen layer shows a point is true for as long as its file has its name and isn't partial, so what was written
down of it at any time holds. A delta that isn't in the catalog is the allocation of the point's layer, and may be taken
for it only relative to what that layer, or one that was folded into it, stood on.
"""

import datetime
from collections.abc import Collection, Iterable, Mapping

from snapd import model
from snapd.service.rebuilding import evidence as evidences


def shown(evidence: evidences.Evidence, heads: Collection[str]) -> dict[str, str]:
    """Return the points by the layers that show them: each layer shows one point, each point has one layer."""
    points: dict[str, str] = {}
    layers: set[str] = set()
    for layer, point in _claims(evidence):
        file = evidence.pool.layers.get(layer)
        if file is None or evidence.is_partial(file, heads) or layer in heads or layer in points or point in layers:
            continue
        known = evidence.base.points.get(point)
        if known is not None and known.size_bytes != file.size_bytes:
            # It isn't what it is said to be, whatever its mode.
            continue
        points[layer] = point
        layers.add(point)
    return points


def _claims(evidence: evidences.Evidence) -> Iterable[tuple[str, str]]:
    """Yield (layer, point), the more trusted ones first: the backup, then what was written down last."""
    for point in evidence.base.points.values():
        if point.layer is not None:
            yield point.layer, point.uid
    described = [file for file in evidence.pool.layers.values() if file.stand and evidence.is_believed(file)]
    for file in sorted(described, key=lambda file: (-file.generation, file.uid)):
        assert file.stand is not None
        point_uid, layer = file.stand
        yield layer, point_uid


def rows(
    evidence: evidences.Evidence, shown_by: Mapping[str, str], named: Iterable[model.Point], used: Collection[str]
) -> list[model.Point]:
    """Return the points of the new catalog: what is used, has a layer, or is followed by such a one.

    shown_by: points by their layers, of layers that are kept. named: points that may be new, with what is said of
    them; the backup knows better.
    """
    layer_of = {point: layer for layer, point in shown_by.items()}
    found = {point.uid: point for point in named} | dict(evidence.base.points)
    placed: dict[str, model.Point] = {}
    for uid, point in found.items():
        layer = layer_of.get(uid)
        placed[uid] = _placed(point, layer, _parent(evidence, uid, layer, shown_by))
    _cut_loops(placed)
    return _without_unused(placed, used)


def _placed(point: model.Point, layer: str | None, parent: str | None) -> model.Point:
    return model.Point(
        uid=point.uid,
        environment_uid=point.environment_uid,
        parent=parent,
        layer=layer,
        size_bytes=point.size_bytes,
        delta_recorded=point.delta_recorded,
        created=point.created,
    )


def _parent(evidence: evidences.Evidence, uid: str, layer: str | None, shown_by: Mapping[str, str]) -> str | None:
    known = evidence.base.points.get(uid)
    if known is not None and (known.delta_recorded or layer is None or layer == known.layer):
        return known.parent
    # Restored since, or new: its layer's allocation is a delta to what that layer stands on, and to nothing else.
    below = None if layer is None else evidence.pool.layers[layer].parent
    return None if below is None else shown_by.get(below)


def _cut_loops(points: dict[str, model.Point]) -> None:
    """Have every path of parents end; only damaged evidence makes one that doesn't, or that leads nowhere."""
    done: set[str] = set()
    for uid in sorted(points):
        path: list[str] = []
        on_path: set[str] = set()
        at: str | None = uid
        while at is not None and at not in done:
            path.append(at)
            on_path.add(at)
            parent = points[at].parent
            if parent is not None and (parent not in points or parent in on_path):
                points[at] = _placed(points[at], points[at].layer, None)
                parent = None
            at = parent
        done.update(path)


def _without_unused(points: Mapping[str, model.Point], used: Collection[str]) -> list[model.Point]:
    followers: dict[str, int] = {}
    for point in points.values():
        if point.parent is not None:
            followers[point.parent] = followers.get(point.parent, 0) + 1
    kept = dict(points)
    loose = [uid for uid in points if uid not in used and points[uid].layer is None and not followers.get(uid)]
    while loose:
        gone = kept.pop(loose.pop())
        if gone.parent is None:
            continue
        followers[gone.parent] -= 1
        before = points[gone.parent]
        if not followers[before.uid] and before.uid not in used and before.layer is None:
            loose.append(before.uid)
    return [kept[uid] for uid in sorted(kept)]


def new(uid: str, environment_uid: str, size_bytes: int, created: datetime.datetime) -> model.Point:
    """Return a point of which no more is known yet."""
    return model.Point(uid, environment_uid, None, None, size_bytes, delta_recorded=False, created=created)
