"""A seeded random walk over everything that callers can do, against a model in memory."""

import concurrent.futures
import dataclasses
import datetime
import os
import random
from collections.abc import Callable

import pytest

from snapd import errors, model, units
from snapd.service.snapshots import SnapshotSpec
from snapd.service.volumes import VolumeSpec
from tests.unit.service import world as worlds

STEPS = 150
SEEDS = [int(os.environ["WALK_SEED"])] if "WALK_SEED" in os.environ else [11, 12, 13]
"""Set WALK_SEED to walk another way; the seed is in the test's name."""

_MOST_VOLUMES = 5
_MOST_SNAPSHOTS = 14


class _Walk:
    """The model, and a step for each thing that can be done."""

    def __init__(self, world: worlds.World, seed: int, prefix: str = "") -> None:
        """Walk by a seed; several walks in one world need prefixes for their ids, and can't restart it."""
        self._world = world
        self._prefix = prefix
        self._random = random.Random(seed)
        self._numbers = 0
        self.volumes: dict[str, bytearray] = {}
        self.snapshots: dict[str, tuple[str, bytes]] = {}
        """By id: uid of the volume it was taken of, contents."""

    def step(self) -> None:
        """Do something."""
        steps: list[tuple[int, Callable[[], None]]] = [
            (3, self._create),
            (2, self._import),
            (25, self._write),
            (10, self._zero),
            (12, self._snapshot_rapid),
            (8, self._snapshot_regular),
            (3, self._archive),
            (7, self._revert),
            (6, self._clone),
            (4, self._delete_volume),
            (8, self._delete_snapshot),
            (6, self._pass_time),
            (4, self._look),
            (4, self._check),
            (0 if self._prefix else 3, self._world.restart),
        ]
        (chosen,) = self._random.choices([step for _, step in steps], [weight for weight, _ in steps])
        chosen()

    def verify(self) -> None:
        """Compare everything."""
        for volume_id, expected in self.volumes.items():
            self._settled(volume_id)
            assert self._world.volume_bytes(volume_id) == bytes(expected), volume_id
        for snapshot_id, (_, contents) in self.snapshots.items():
            self._completed(snapshot_id)
            assert self._world.snapshot_bytes(snapshot_id) == contents, snapshot_id

    def _id(self, kind: str) -> str:
        self._numbers += 1
        return f"{self._prefix}{kind}{self._numbers}"

    def _some_volume(self) -> str | None:
        return self._random.choice(sorted(self.volumes)) if self.volumes else None

    def _some_snapshot(self) -> str | None:
        return self._random.choice(sorted(self.snapshots)) if self.snapshots else None

    def _settled(self, volume_id: str) -> None:
        self._world.until(lambda: self._world.get_volume(volume_id).state is model.VolumeState.READY)

    def _completed(self, snapshot_id: str) -> None:
        self._world.until(lambda: self._world.get_snapshot(snapshot_id).state is model.SnapshotState.COMPLETED)

    def _create(self) -> None:
        if len(self.volumes) < _MOST_VOLUMES:
            volume_id, size = self._id("v"), self._random.randrange(1, 2 * units.MIB // 512) * 512
            self._world.volume(volume_id, size)
            self.volumes[volume_id] = bytearray(size)

    def _import(self) -> None:
        if len(self.volumes) < _MOST_VOLUMES:
            volume_id, data = self._id("i"), self._random.randbytes(self._random.randrange(1, 1024) * 512)
            spec = VolumeSpec("", {}, model.VolumeRole.ROOT, "", 0, "")
            request = worlds.request("ImportVolume")
            with self._world.service.transfers.begin_import(
                request, "e", volume_id, spec, model.ImageFormat.RAW, len(data), 0
            ) as upload:
                upload.data(0, data)
                upload.finish()
            self.volumes[volume_id] = bytearray(data)

    def _range(self, size: int) -> tuple[int, int]:
        offset = self._random.randrange(size // 512) * 512
        longest = min(size - offset, 4 * worlds.CLUSTER)
        return offset, self._random.randrange(1, longest // 512 + 1) * 512

    def _write(self) -> None:
        volume_id = self._some_volume()
        if volume_id is not None:
            offset, length = self._range(len(self.volumes[volume_id]))
            data = self._random.randbytes(length)
            self._world.write(volume_id, offset, data)
            self.volumes[volume_id][offset : offset + length] = data

    def _zero(self) -> None:
        volume_id = self._some_volume()
        if volume_id is not None:
            offset, length = self._range(len(self.volumes[volume_id]))
            self._world.zero(volume_id, offset, length)
            self.volumes[volume_id][offset : offset + length] = bytes(length)

    def _snapshot(self, *, rapid: bool) -> None:
        volume_id = self._some_volume()
        if volume_id is None or len(self.snapshots) >= _MOST_SNAPSHOTS:
            return
        if not rapid:
            self._settled(volume_id)
        snapshot_id = self._id("s")
        spec = SnapshotSpec(rapid, "", {}, None)
        request = worlds.request("CreateSnapshot")
        try:
            snapshot, _ = self._world.service.snapshots.create(request, "e", snapshot_id, volume_id, spec)
        except errors.ChainDepth:
            return
        self.snapshots[snapshot_id] = snapshot.volume_uid, bytes(self.volumes[volume_id])

    def _snapshot_rapid(self) -> None:
        self._snapshot(rapid=True)

    def _snapshot_regular(self) -> None:
        self._snapshot(rapid=False)

    def _archive(self) -> None:
        snapshot_id = self._some_snapshot()
        if snapshot_id is not None:
            self._world.service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", snapshot_id, "")

    def _revert(self) -> None:
        volume_id = self._some_volume()
        if volume_id is None:
            return
        uid = self._world.get_volume(volume_id).uid
        own = [snapshot_id for snapshot_id in sorted(self.snapshots) if self.snapshots[snapshot_id][0] == uid]
        if not own:
            return
        snapshot_id = self._random.choice(own)
        self._completed(snapshot_id)
        self._settled(volume_id)
        try:
            self._world.revert(volume_id, snapshot_id)
        except errors.ChainDepth:
            return
        self.volumes[volume_id][:] = self.snapshots[snapshot_id][1]

    def _clone(self) -> None:
        snapshot_id = self._some_snapshot()
        if snapshot_id is None or len(self.volumes) >= _MOST_VOLUMES:
            return
        self._completed(snapshot_id)
        volume_id = self._id("c")
        try:
            self._world.clone(volume_id, snapshot_id)
        except errors.ChainDepth:
            return
        self.volumes[volume_id] = bytearray(self.snapshots[snapshot_id][1])

    def _delete_volume(self) -> None:
        volume_id = self._some_volume()
        if volume_id is not None:
            self._world.delete_volume(volume_id)
            del self.volumes[volume_id]

    def _delete_snapshot(self) -> None:
        snapshot_id = self._some_snapshot()
        if snapshot_id is not None:
            request = worlds.request("DeleteSnapshot")
            _, operation = self._world.service.snapshots.delete(request, "e", snapshot_id, "", False)
            del self.snapshots[snapshot_id]
            assert operation is not None
            if self._random.random() < 0.5:
                self._world.succeed(operation)

    def _pass_time(self) -> None:
        self._world.pass_time(hours=self._random.randrange(1, 30))

    def _check(self) -> None:
        volume_id = self._some_volume()
        if volume_id is not None:
            with self._world.service.checks.begin("e", volume_id, mend=self._random.random() < 0.3) as check:
                for found in iter(check.next, None):
                    assert found.report is not None, found.problem
                    assert found.report.clean, found

    def _look(self) -> None:
        volume_id, snapshot_id = self._some_volume(), self._some_snapshot()
        if volume_id is not None:
            assert self._world.volume_bytes(volume_id) == bytes(self.volumes[volume_id])
        if snapshot_id is not None:
            self._completed(snapshot_id)
            assert self._world.snapshot_bytes(snapshot_id) == self.snapshots[snapshot_id][1]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_walk_keeps_every_byte(world: worlds.World, seed: int) -> None:
    walk = _Walk(world, seed)
    for _ in range(STEPS):
        walk.step()
    walk.verify()
    world.restart()
    walk.verify()
    world.pass_time(days=3)
    world.until(lambda: not any(world.get_snapshot(snapshot_id).rapid for snapshot_id in walk.snapshots))
    walk.verify()


@pytest.mark.parametrize("seed", SEEDS)
def test_walks_side_by_side_keep_every_byte(world: worlds.World, seed: int) -> None:
    # A day passes in no time here, and a walk must not have the uploads of another one expire.
    world.restart(dataclasses.replace(world.settings, upload_expiry=datetime.timedelta(days=3650)))
    walks = [_Walk(world, seed + number, f"w{number}-") for number in range(4)]

    def go(walk: _Walk) -> None:
        for _ in range(STEPS // 3):
            walk.step()
        walk.verify()

    with concurrent.futures.ThreadPoolExecutor(len(walks)) as executor:
        for done in executor.map(go, walks):
            assert done is None
    world.restart()
    for walk in walks:
        walk.verify()
