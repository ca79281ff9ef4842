"""Made-up evidence with as little said as possible: what has one digit belongs together."""

import dataclasses
import datetime
from collections.abc import Iterable

from snapd import model
from snapd.pool import layers as pools
from snapd.service import descriptions
from snapd.service.rebuilding import base as bases
from snapd.service.rebuilding import copies, joining, report, survey
from snapd.service.rebuilding import evidence as evidences

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
SIZE = 1 << 20
GENERATION = 100
"""How far the intents of a backup had come."""


def uid(kind: str, digit: int) -> str:
    """Return a uid that tells its kind by its first digit: e, v, s, p(oint) or l(ayer)."""
    return f"{'evspl'.index(kind) + 1:x}{digit:07x}-0000-4000-8000-000000000000"


def environment(digit: int = 1, id_: str = "e") -> model.Environment:
    """Return an environment."""
    return model.Environment(uid("e", digit), id_, id_, {}, None, NOW, NOW, 1)


def volume(
    digit: int,
    head: int | None,
    point: int | None = None,
    *,
    state: model.VolumeState = model.VolumeState.READY,
    id_: str = "",
) -> model.Volume:
    """Return a volume of the backup."""
    return model.Volume(
        uid=uid("v", digit),
        environment_uid=uid("e", 1),
        environment="e",
        id=id_ or f"v{digit}",
        display_name="",
        labels={},
        role=model.VolumeRole.DATA,
        instance="",
        size_bytes=SIZE,
        state=state,
        error=None,
        source_snapshot="",
        head_layer=None if head is None else uid("l", head),
        parent_point=None if point is None else uid("p", point),
        created=NOW,
        updated=NOW,
        revision=1,
    )


def snapshot(
    digit: int,
    *,
    archive: model.ArchiveState = model.ArchiveState.SCHEDULED,
    state: model.SnapshotState = model.SnapshotState.COMPLETED,
    id_: str = "",
    created: datetime.datetime = NOW,
) -> model.Snapshot:
    """Return a snapshot of the backup, of the point of its digit and of volume 1."""
    archived = archive is model.ArchiveState.ARCHIVED
    return model.Snapshot(
        uid=uid("s", digit),
        environment_uid=uid("e", 1),
        environment="e",
        id=id_ or f"s{digit}",
        display_name="",
        labels={},
        volume="v1",
        volume_uid=uid("v", 1),
        point=uid("p", digit),
        size_bytes=SIZE,
        state=state,
        error=None,
        requested_rapid=True,
        rapid=not archived,
        retention=None,
        archive=model.Archive(archive, NOW, None if archived else NOW, NOW if archived else None, 0, None, 0),
        health=model.HealthState.OK,
        captured=created,
        created=created,
        updated=NOW,
        revision=1,
    )


def point(digit: int, parent: int | None = None, layer: int | None = None, *, recorded: bool = False) -> model.Point:
    """Return a point of the backup."""
    return model.Point(
        uid("p", digit),
        uid("e", 1),
        None if parent is None else uid("p", parent),
        None if layer is None else uid("l", layer),
        SIZE,
        recorded,
        NOW,
    )


def layer(digit: int, parent: int | None = None, state: model.LayerState = model.LayerState.FROZEN) -> model.Layer:
    """Return a layer of the backup."""
    return model.Layer(uid("l", digit), None if parent is None else uid("l", parent), SIZE, state, NOW)


def base(
    volumes: Iterable[model.Volume] = (),
    snapshots: Iterable[model.Snapshot] = (),
    points: Iterable[model.Point] = (),
    layers: Iterable[model.Layer] = (),
    environments: Iterable[model.Environment] = (environment(),),
) -> bases.Base:
    """Return what a backup says."""
    return bases.Base(
        host="host-1",
        environments={row.uid: row for row in environments},
        volumes={row.uid: row for row in volumes},
        snapshots={row.uid: row for row in snapshots},
        points={row.uid: row for row in points},
        layers={row.uid: row for row in layers},
        generation=GENERATION,
        revision=1000,
        newest=NOW,
    )


def file(
    digit: int, parent: int | None = None, mode: int = pools.FROZEN_MODE, size_bytes: int = SIZE
) -> survey.LayerFile:
    """Return a layer's file without a description."""
    return survey.LayerFile(uid("l", digit), None if parent is None else uid("l", parent), size_bytes, mode, NOW)


def head(
    digit: int,
    generation: int,
    parent: int | None = None,
    *,
    volume: int = 1,
    point: int | None = None,
    taken: int | None = None,
    rapid: bool = True,
    mode: int = pools.HEAD_MODE,
    volume_id: str = "",
    snapshot_id: str = "",
    stands_on: int | None = None,
    captured: datetime.datetime = NOW,
) -> survey.LayerFile:
    """Return a layer's file that describes itself; the point on which it stands is its parent's unless it is given."""
    owner = descriptions.Owner(
        uid=uid("v", volume),
        environment_uid=uid("e", 1),
        environment="e",
        id=volume_id or f"v{volume}",
        display_name="",
        labels={},
        role=model.VolumeRole.DATA,
        instance="",
        source_snapshot="",
        created=NOW,
    )
    on = parent if stands_on is None else stands_on
    stand = None if on is None else descriptions.Stand(uid("p", point or on), uid("e", 1), uid("l", on))
    took = None
    if taken is not None:
        took = descriptions.Taken(
            uid("s", taken),
            snapshot_id or f"s{taken}",
            "",
            {},
            rapid,
            None,
            captured + datetime.timedelta(days=1),
            captured,
        )
    said = descriptions.Head(generation, owner, stand, took)
    return survey.with_description(file(digit, parent, mode), said, descriptions.encode_head(said))


def copy(digit: int, *, known: bool = False, snapshot_id: str = "", problem: str = "") -> copies.Copy:
    """Return an archived snapshot, read unless the backup is to know it."""
    said = descriptions.Archived(
        id=snapshot_id or f"s{digit}",
        display_name="",
        labels={},
        environment="e",
        volume="v1",
        volume_uid=uid("v", 1),
        point=uid("p", digit),
        parent_point="",
        captured=NOW,
        requested_rapid=False,
        retention=None,
    )
    return copies.Copy(uid("s", digit), uid("e", 1), SIZE, archived=None if known or problem else said, problem=problem)


@dataclasses.dataclass(frozen=True)
class Joined:
    """What was made of evidence, by digits and ids."""

    rows: joining.Rows
    report: report.Report

    def volume(self, digit: int) -> model.Volume:
        """Return a volume."""
        (found,) = (row for row in self.rows.volumes if row.uid == uid("v", digit))
        return found

    def snapshot(self, digit: int) -> model.Snapshot:
        """Return a snapshot."""
        (found,) = (row for row in self.rows.snapshots if row.uid == uid("s", digit))
        return found

    def point(self, digit: int) -> model.Point:
        """Return a point."""
        (found,) = (row for row in self.rows.points if row.uid == uid("p", digit))
        return found

    @property
    def layers(self) -> dict[int, model.LayerState]:
        """The states of the layers, by their digits."""
        return {int(row.uid[1:8], 16): row.state for row in self.rows.layers}

    @property
    def ids(self) -> list[str]:
        """The ids of all snapshots."""
        return sorted(row.id for row in self.rows.snapshots)

    @property
    def left(self) -> list[int]:
        """The digits of the layers' files that are left alone."""
        return [int(entry.name[4:11], 16) for entry in self.report.left if entry.name.endswith(".qcow2")]

    def marked(self) -> set[str]:
        """Return the ids of what is marked."""
        found = {row.id for row in self.rows.volumes if row.recovered}
        return found | {row.id for row in self.rows.snapshots if row.recovered}


def join(
    base_: bases.Base,
    files: Iterable[survey.LayerFile] = (),
    archived: Iterable[copies.Copy] | None = (),
    refused: Iterable[survey.Refused] = (),
) -> Joined:
    """Return what is made of a backup, files and copies; archived is None if the archive isn't asked."""
    archive = None if archived is None else copies.Archive({one.uid: one for one in archived}, 1 << 16)
    evidence = evidences.Evidence(base_, survey.sort(files, refused), archive, NOW + datetime.timedelta(hours=1))
    return Joined(*joining.join(evidence))


# A volume whose head 2 stands on the snapshot 1, as a backup has it.
PAIR = base(
    volumes=[volume(1, head=2, point=1)],
    snapshots=[snapshot(1)],
    points=[point(1, layer=1)],
    layers=[layer(1), layer(2, 1, model.LayerState.HEAD)],
)
PAIR_FILES = [file(1), head(2, 50, 1, taken=1)]
