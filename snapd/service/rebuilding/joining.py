"""The rows of a new catalog, joined from backup, pool and archive, and what there is to tell of it."""

import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping

from snapd import model
from snapd.service import names
from snapd.service.rebuilding import copies, heads, naming, points, report, snapshots, survey, volumes
from snapd.service.rebuilding import evidence as evidences


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """All rows of resources and files; whatever else the backup has stays as it is."""

    environments: tuple[model.Environment, ...]
    layers: tuple[model.Layer, ...]
    """Each behind those that it stands on."""
    points: tuple[model.Point, ...]
    volumes: tuple[model.Volume, ...]
    snapshots: tuple[model.Snapshot, ...]


def join(evidence: evidences.Evidence) -> tuple[Rows, report.Report]:
    """Return the rows of the new catalog and what there is to tell of them."""
    choices = heads.choose(evidence)
    head_of = heads.taken(choices)
    shown = points.shown(evidence, head_of)
    found_volumes = volumes.gather(evidence, choices)
    found_snapshots = snapshots.gather(evidence, shown, head_of)
    kept = _kept_layers(evidence, shown, found_volumes, found_snapshots)
    placed = _with_recovered(shown, found_snapshots)
    shown_by = {layer: placed[layer] for layer in kept if layer in placed}
    named = _Named(evidence, found_volumes, found_snapshots)
    rows = Rows(
        environments=named.environments(),
        layers=tuple(_layer(evidence, uid, head_of) for uid in kept),
        points=_points(evidence, shown_by, found_volumes, found_snapshots),
        volumes=named.volumes(),
        snapshots=named.snapshots(),
    )
    return rows, _tell(evidence, rows, named, choices, shown)


# --- layers and points ------------------------------------------------------------------------------------------------


def _with_recovered(shown: Mapping[str, str], found: Iterable[snapshots.Found]) -> dict[str, str]:
    """Return the points by their layers, those of snapshots included that were made for a layer."""
    made = {each.layer: each.snapshot.point for each in found if each.layer}
    return {**shown, **made}


def _kept_layers(
    evidence: evidences.Evidence,
    shown: Mapping[str, str],
    found_volumes: Iterable[volumes.Found],
    found_snapshots: Iterable[snapshots.Found],
) -> list[str]:
    """Return the layers on which something depends, each behind those that it stands on."""
    layer_of = {point: layer for layer, point in shown.items()}
    tops = [found.volume.head_layer for found in found_volumes]
    for found in found_snapshots:
        if found.snapshot.archive.state is not model.ArchiveState.ARCHIVED:
            tops.append(found.layer or layer_of.get(found.snapshot.point))
    kept: dict[str, None] = {}
    for top in tops:
        below = [] if top is None else list(_above_kept(evidence.pool, top, kept))
        kept.update(dict.fromkeys(reversed(below)))
    return list(kept)


def _above_kept(pool: survey.Pool, top: str, kept: Mapping[str, None]) -> Iterator[str]:
    for uid in survey.chain(pool, top):
        if uid in kept:
            return
        yield uid


def _layer(evidence: evidences.Evidence, uid: str, head_of: Mapping[str, str]) -> model.Layer:
    file = evidence.pool.layers[uid]
    known = evidence.base.layers.get(uid)
    return model.Layer(
        uid=uid,
        parent=file.parent,
        size_bytes=file.size_bytes,
        state=model.LayerState.HEAD if uid in head_of else model.LayerState.FROZEN,
        created=file.modified if known is None else known.created,
    )


def _points(
    evidence: evidences.Evidence,
    shown_by: Mapping[str, str],
    found_volumes: Iterable[volumes.Found],
    found_snapshots: Iterable[snapshots.Found],
) -> tuple[model.Point, ...]:
    named: list[model.Point] = []
    used: set[str] = set()
    for found in found_snapshots:
        snapshot = found.snapshot
        used.add(snapshot.point)
        named.append(points.new(snapshot.point, snapshot.environment_uid, snapshot.size_bytes, snapshot.captured))
    for each in found_volumes:
        if each.volume.parent_point is not None:
            used.add(each.volume.parent_point)
    # Of those that no snapshot names any more, whoever stands on them says whose they are.
    described = {point.uid for point in named} | evidence.base.points.keys()
    wanted = (used | set(shown_by.values())) - described
    named += _described(evidence, wanted, {point: layer for layer, point in shown_by.items()})
    return tuple(points.rows(evidence, shown_by, named, used))


def _described(evidence: evidences.Evidence, wanted: set[str], layer_of: Mapping[str, str]) -> Iterator[model.Point]:
    for file in evidence.pool.layers.values():
        head = file.described() if file.stand is not None and file.stand[0] in wanted else None
        if head is not None and head.stand is not None:
            wanted.discard(head.stand.point)
            layer = layer_of.get(head.stand.point)
            size_bytes = file.size_bytes if layer is None else evidence.pool.layers[layer].size_bytes
            created = head.owner.created if head.taken is None else head.taken.captured
            yield points.new(head.stand.point, head.stand.environment_uid, size_bytes, created)


# --- names ------------------------------------------------------------------------------------------------------------


class _Named:
    """Volumes and snapshots with the ids that they get, and the environments in which they are."""

    def __init__(
        self,
        evidence: evidences.Evidence,
        found_volumes: list[volumes.Found],
        found_snapshots: list[snapshots.Found],
    ) -> None:
        self._evidence = evidence
        self._volumes = found_volumes
        self._snapshots = found_snapshots
        self._environments = self._settled_environments()
        self._volume_ids = naming.settle(
            naming.Wanted(
                found.volume.uid,
                found.volume.environment_uid,
                found.volume.id,
                found.volume.head_layer is not None,
                found.volume.created,
            )
            for found in found_volumes
        )
        self._snapshot_ids = naming.settle(
            naming.Wanted(
                found.snapshot.uid,
                found.snapshot.environment_uid,
                found.snapshot.id,
                found.with_contents,
                found.snapshot.created,
            )
            for found in found_snapshots
        )
        self.recovered: list[report.Entry] = []
        self.lost: list[report.Entry] = []

    def _settled_environments(self) -> dict[str, model.Environment]:
        """Return the backup's environments, and those that only volumes and snapshots know, with their ids."""
        known = dict(self._evidence.base.environments)
        wanted = {
            environment.uid: naming.Wanted(environment.uid, "", environment.id, False, environment.created)
            for environment in known.values()
        }
        for uid, said, with_contents, created in self._members():
            if uid not in known:
                environment_id = naming.believable_id(said, "environment", uid)
                known[uid] = model.Environment(uid, environment_id, environment_id, {}, None, created, created, 0)
                wanted[uid] = naming.Wanted(uid, "", environment_id, with_contents, created)
            one = wanted[uid]
            if with_contents:
                wanted[uid] = dataclasses.replace(one, with_contents=True, created=max(one.created, created))
        ids = naming.settle(wanted.values())
        return {uid: dataclasses.replace(one, id=ids[uid]) for uid, one in known.items()}

    def _members(self) -> Iterator[tuple[str, str, bool, datetime.datetime]]:
        for each in self._volumes:
            volume = each.volume
            yield volume.environment_uid, volume.environment, volume.head_layer is not None, volume.created
        for found in self._snapshots:
            snapshot = found.snapshot
            yield snapshot.environment_uid, snapshot.environment, found.with_contents, snapshot.created

    def environments(self) -> tuple[model.Environment, ...]:
        """Return all environments."""
        now = self._evidence.now
        return tuple(dataclasses.replace(one, updated=now) for _, one in sorted(self._environments.items()))

    def volumes(self) -> tuple[model.Volume, ...]:
        """Return all volumes, and note what there is to tell of them."""
        made = []
        for found in self._volumes:
            volume = found.volume
            environment = self._environments[volume.environment_uid].id
            settled = self._volume_ids[volume.uid]
            name = names.volume(environment, settled)
            recovered = found.recovered or _renamed(volume.id, settled)
            self._note(name, recovered, found.lost)
            made.append(
                dataclasses.replace(
                    volume,
                    id=settled,
                    environment=environment,
                    updated=self._evidence.now,
                    recovered=bool(recovered) or volume.recovered,
                )
            )
        return tuple(made)

    def snapshots(self) -> tuple[model.Snapshot, ...]:
        """Return all snapshots, and note what there is to tell of them."""
        made = []
        for found in self._snapshots:
            snapshot = found.snapshot
            environment = self._environments[snapshot.environment_uid].id
            settled = self._snapshot_ids[snapshot.uid]
            recovered = found.recovered or _renamed(snapshot.id, settled)
            self._note(names.snapshot(environment, settled), recovered, found.lost)
            made.append(
                dataclasses.replace(
                    snapshot,
                    id=settled,
                    environment=environment,
                    updated=self._evidence.now,
                    recovered=bool(recovered) or snapshot.recovered,
                )
            )
        return tuple(sorted(made, key=lambda snapshot: snapshot.uid))

    def _note(self, name: str, recovered: str, lost: str) -> None:
        if lost:
            self.lost.append(report.Entry(name, lost))
        elif recovered:
            self.recovered.append(report.Entry(name, recovered))


def _renamed(wanted: str, settled: str) -> str:
    return "" if wanted == settled else f"another one has its name {wanted}"


# --- telling ----------------------------------------------------------------------------------------------------------


def _tell(
    evidence: evidences.Evidence,
    rows: Rows,
    named: _Named,
    choices: Mapping[str, heads.Choice],
    shown: Mapping[str, str],
) -> report.Report:
    archived = sum(snapshot.archive.state is model.ArchiveState.ARCHIVED for snapshot in rows.snapshots)
    counts = report.Counts(
        environments=len(rows.environments),
        volumes=len(rows.volumes),
        snapshots=len(rows.snapshots),
        points=len(rows.points),
        layers=len(rows.layers),
        described=sum(evidence.pool.layers[layer.uid].generation != survey.UNDESCRIBED for layer in rows.layers),
        archived=archived,
    )
    left = [*_left_files(evidence, rows, choices, shown), *_left_copies(evidence, rows)]
    return report.Report(
        counts,
        tuple(sorted(named.recovered, key=lambda entry: entry.name)),
        tuple(sorted(named.lost, key=lambda entry: entry.name)),
        tuple(sorted(left, key=lambda entry: entry.name)),
    )


def _left_files(
    evidence: evidences.Evidence, rows: Rows, choices: Mapping[str, heads.Choice], shown: Mapping[str, str]
) -> Iterator[report.Entry]:
    kept = {layer.uid for layer in rows.layers}
    rivals = {uid for choice in choices.values() for uid in choice.rivals}
    archived = {snapshot.point for snapshot in rows.snapshots if snapshot.archive.state is model.ArchiveState.ARCHIVED}
    for uid in evidence.pool.layers.keys() - kept:
        if uid in rivals:
            problem = "it could be a volume's head, and a later one is there"
        elif shown.get(uid) in archived:
            problem = "its snapshot is archived, and nothing stands on it"
        else:
            problem = "nothing depends on it that is known"
        yield report.Entry(_path(uid), problem)
    for refused in evidence.pool.refused.values():
        yield report.Entry(_path(refused.uid), refused.problem)
    for other in evidence.pool.others:
        yield report.Entry(other.path, other.problem)


def _path(uid: str) -> str:
    return f"{uid[:2]}/{uid}.qcow2"


def _left_copies(evidence: evidences.Evidence, rows: Rows) -> Iterator[report.Entry]:
    known = {snapshot.uid for snapshot in rows.snapshots}
    found: Iterable[copies.Copy] = () if evidence.archive is None else evidence.archive.copies.values()
    for copy in found:
        if copy.uid not in known:
            problem = copy.problem or "its manifest doesn't say what it is"
            yield report.Entry(f"{copy.environment_uid}/{copy.uid}", problem)
