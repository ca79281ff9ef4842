"""A catalog whose WAL was cut: what was acknowledged last is forgotten, and what is left is true or says that it isn't.

No daemon does that to itself. A disk that lies about its syncs does, and whoever copies a catalog without its WAL.
"""

import pathlib
import random
import shutil

import pytest

from snapd import errors, model
from snapd.service.inspection import findings
from tests.unit.service import checker
from tests.unit.service import world as worlds

_FRAME = 24 + 4096
_HEADER = 32
_CUTS = 12

EXPLAINED = {findings.Kind.FILE_UNEXPLAINED, findings.Kind.COPY_UNEXPLAINED, findings.Kind.LAYER_MISSING}
"""What a catalog that is older than the pool and the archive has to find; and nothing contradicts itself."""


class _History:
    """What volumes have held, and what snapshots hold."""

    def __init__(self, world: worlds.World) -> None:
        self.world = world
        self.volumes: dict[str, set[bytes]] = {}
        self.snapshots: dict[str, bytes] = {}

    def note(self, *volume_ids: str) -> None:
        for volume_id in volume_ids:
            self.volumes.setdefault(volume_id, {bytes(worlds.SIZE)}).add(self.world.volume_bytes(volume_id))

    def note_snapshot(self, snapshot_id: str) -> None:
        self.snapshots[snapshot_id] = self.world.snapshot_bytes(snapshot_id)


def _until_completed(world: worlds.World, snapshot_id: str) -> None:
    world.until(lambda: world.get_snapshot(snapshot_id).state is model.SnapshotState.COMPLETED)


def _live(world: worlds.World) -> _History:
    """Do a bit of everything, and return what was there when."""
    chance = random.Random(1)
    history = _History(world)
    world.volume("v")
    for number in range(4):
        world.write("v", number * worlds.CLUSTER, chance.randbytes(2 * worlds.CLUSTER))
        history.note("v")
        world.snapshot(f"s{number}", "v", rapid=number != 1)
        _until_completed(world, f"s{number}")
        history.note_snapshot(f"s{number}")
    world.clone("c", "s0")
    history.note("c")
    world.write("c", 0, chance.randbytes(512))
    history.note("c")
    world.revert("v", "s0")
    history.note("v")
    world.delete_snapshot("s2")
    world.until(lambda: checker.is_settled(world.settings))
    world.delete_volume("c")
    world.until(lambda: checker.is_settled(world.settings))
    return history


@pytest.mark.parametrize("seed", [7, random.SystemRandom().getrandbits(32)], ids=["fixed", "fresh"])
def test_what_a_cut_wal_leaves_is_true_or_says_that_it_is_not(tmp_path: pathlib.Path, seed: int) -> None:
    chance = random.Random(seed)
    alive = tmp_path / "alive"
    alive.mkdir()
    world = worlds.World(alive)
    world.start()
    try:
        world.environment()
        history = _live(world)
        # As a kill would leave it: closed in order, the WAL is gone.
        shutil.copytree(alive, tmp_path / "left")
    finally:
        world.stop()
    length = (tmp_path / "left" / "catalog.sqlite3-wal").stat().st_size
    frames = (length - _HEADER) // _FRAME
    cuts = sorted(chance.sample(range(frames), _CUTS))
    for cut in cuts:
        position = _HEADER + cut * _FRAME + chance.choice((0, 1, 24, 2000))
        folder = tmp_path / f"cut-{cut}"
        shutil.copytree(tmp_path / "left", folder)
        with (folder / "catalog.sqlite3-wal").open("r+b") as file:
            file.truncate(position)
        _look_at(folder, history, f"seed {seed}, cut at {position} of {length}")
        shutil.rmtree(folder)


def _look_at(folder: pathlib.Path, history: _History, where: str) -> None:
    world = worlds.World(folder)
    try:
        world.start()
    except errors.CatalogMissing:
        # So little was left that there are no tables.
        return
    try:
        world.until(lambda: world.service.comparison.compared().archive is not None)
        found = world.service.comparison.compared().found
        assert {finding.kind for finding in found} <= EXPLAINED, (where, found)
        hit = {name for finding in found for name in finding.affected}
        query = model.Query("-", "me", 100, "", "", "")
        for volume in world.service.volumes.list(query).items:
            if volume.state is model.VolumeState.READY:
                with _Typed(f"environments/e/volumes/{volume.id}" in hit):
                    assert world.volume_bytes(volume.id) in history.volumes[volume.id], (where, volume.id)
        for snapshot in world.service.snapshots.list(query).items:
            if snapshot.state is model.SnapshotState.COMPLETED:
                with _Typed(snapshot.archive.state is model.ArchiveState.ARCHIVED or _is_hit(snapshot, hit)):
                    assert world.snapshot_bytes(snapshot.id) == history.snapshots[snapshot.id], (where, snapshot.id)
    finally:
        world.stop()


def _is_hit(snapshot: model.Snapshot, hit: set[str]) -> bool:
    return f"environments/{snapshot.environment}/snapshots/{snapshot.id}" in hit


class _Typed:
    """Let a typed error pass where one is due."""

    def __init__(self, due: bool) -> None:
        self._due = due

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return self._due and isinstance(error, errors.SnapdError)
