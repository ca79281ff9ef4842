"""Snapshots from their capture to the archive and away, with clones and reverts on them."""

import datetime
import random

import pytest

from snapd import errors, model
from snapd.service.snapshots import SnapshotSpec
from tests.unit.service import world as worlds

CLUSTER = worlds.CLUSTER


def _noise(seed: int, length: int = CLUSTER) -> bytes:
    return random.Random(seed).randbytes(length)


def test_a_rapid_snapshot_is_complete_at_once_and_holds_what_was_there(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1))
    before = world.volume_bytes("v")
    snapshot = world.snapshot("s", "v", rapid=True)
    assert (snapshot.state, snapshot.rapid) == (model.SnapshotState.COMPLETED, True)
    assert (snapshot.archive.state, snapshot.archive.due) == (
        model.ArchiveState.SCHEDULED,
        worlds.START + datetime.timedelta(hours=24),
    )
    world.write("v", 512, _noise(2, 1024))
    assert world.snapshot_bytes("s") == before != world.volume_bytes("v")


def test_a_regular_snapshot_is_in_progress_until_it_is_archived(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1))
    before = world.volume_bytes("v")
    seen: list[tuple[model.SnapshotState, model.VolumeState]] = []
    snapshot = world.snapshot("s", "v", rapid=False)
    seen.append((snapshot.state, world.get_volume("v").state))
    world.until(lambda: world.get_snapshot("s").state is model.SnapshotState.COMPLETED)
    after = world.get_snapshot("s")
    assert seen[0][0] in (model.SnapshotState.IN_PROGRESS, model.SnapshotState.COMPLETED)
    assert (after.archive.state, after.rapid) == (model.ArchiveState.ARCHIVED, False)
    assert world.get_volume("v").state is model.VolumeState.READY
    assert world.snapshot_bytes("s") == before
    assert world.rows("SELECT layer FROM points WHERE uid = ?", after.point)[0]["layer"] in (None, *_frozen(world))


def _frozen(world: worlds.World) -> list[str]:
    return [row["uid"] for row in world.rows("SELECT uid FROM layers WHERE state = 'FROZEN'")]


def test_a_day_later_a_rapid_snapshot_is_archived_by_itself(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1))
    before = world.volume_bytes("v")
    world.snapshot("s", "v", rapid=True)
    world.pass_time(hours=23, minutes=59)
    assert world.get_snapshot("s").rapid
    world.pass_time(minutes=1)
    world.until(lambda: not world.get_snapshot("s").rapid)
    snapshot = world.get_snapshot("s")
    assert (snapshot.requested_rapid, snapshot.archive.archived) == (True, world.clock.now())
    assert world.snapshot_bytes("s") == before


def test_retention_is_the_snapshots_own_or_else_the_environments(world: worlds.World) -> None:
    changes = {"retention": datetime.timedelta(hours=2)}
    world.service.environments.update(worlds.request("UpdateEnvironment", ""), "e", "", changes)
    world.volume("v")
    world.snapshot("environments", "v", rapid=True)
    world.snapshot("own", "v", rapid=True, retention=datetime.timedelta(hours=1))
    world.pass_time(hours=1)
    world.until(lambda: not world.get_snapshot("own").rapid)
    assert world.get_snapshot("environments").rapid
    world.pass_time(hours=1)
    world.until(lambda: not world.get_snapshot("environments").rapid)


def test_retention_can_be_changed_while_a_snapshot_waits(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    changes = {"retention": datetime.timedelta(minutes=10)}
    changed = world.service.snapshots.update(worlds.request("UpdateSnapshot"), "e", "s", "", changes)
    assert changed.archive.due == worlds.START + datetime.timedelta(minutes=10)
    world.pass_time(minutes=10)
    world.until(lambda: not world.get_snapshot("s").rapid)
    with pytest.raises(errors.WrongState):
        world.service.snapshots.update(worlds.request("UpdateSnapshot"), "e", "s", "", changes)


def test_archiving_now_does_not_wait_for_the_due_time(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1))
    world.snapshot("s", "v", rapid=True)
    _, operation = world.service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", "s", "")
    world.succeed(operation)
    assert world.get_snapshot("s").archive.state is model.ArchiveState.ARCHIVED
    _, again = world.service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", "s", "")
    assert again.done


@pytest.mark.parametrize("archived", [False, True])
def test_any_snapshot_can_be_reverted_to_while_later_ones_exist(world: worlds.World, archived: bool) -> None:
    world.volume("v")
    states = []
    for number in range(3):
        world.write("v", number * CLUSTER, _noise(number))
        states.append(world.volume_bytes("v"))
        if archived:
            world.archived(f"s{number}", "v")
        else:
            world.snapshot(f"s{number}", "v", rapid=True)
    world.write("v", 0, _noise(9))
    for number in (1, 2, 0):
        world.revert("v", f"s{number}")
        assert world.volume_bytes("v") == states[number]
        world.write("v", 3 * CLUSTER, _noise(number + 20))
        assert [world.snapshot_bytes(f"s{each}") for each in range(3)] == states


@pytest.mark.parametrize("archived", [False, True])
def test_a_clone_is_independent_of_where_it_came_from(world: worlds.World, archived: bool) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1))
    before = world.volume_bytes("v")
    if archived:
        world.archived("s", "v")
    else:
        world.snapshot("s", "v", rapid=True)
    world.clone("c1", "s")
    world.clone("c2", "s")
    world.write("c1", 512, _noise(2, 512))
    world.write("v", 1024, _noise(3, 512))
    assert world.volume_bytes("c2") == before == world.snapshot_bytes("s")
    assert world.volume_bytes("c1") == before[:512] + _noise(2, 512) + before[1024:]
    world.delete_snapshot("s")
    world.delete_volume("v")
    assert world.volume_bytes("c2") == before
    world.snapshot("of-clone", "c1", rapid=True)
    world.delete_volume("c2")
    assert world.snapshot_bytes("of-clone") == world.volume_bytes("c1")


def test_a_snapshot_outlives_its_volume(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1))
    before = world.volume_bytes("v")
    world.snapshot("s", "v", rapid=True)
    world.delete_volume("v")
    assert world.snapshot_bytes("s") == before
    world.pass_time(hours=24)
    world.until(lambda: not world.get_snapshot("s").rapid)
    assert world.snapshot_bytes("s") == before
    world.clone("w", "s")
    assert world.volume_bytes("w") == before


def test_a_revert_takes_only_snapshots_of_the_very_volume(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    world.volume("w")
    with pytest.raises(errors.SnapshotOfAnotherVolume):
        world.service.volumes.revert(worlds.request("RevertVolume"), "e", "w", "s", "")
    world.delete_volume("v")
    world.volume("v")
    with pytest.raises(errors.SnapshotOfAnotherVolume):
        world.service.volumes.revert(worlds.request("RevertVolume"), "e", "v", "s", "")


def test_a_second_snapshot_stores_only_what_changed(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1, 32 * CLUSTER))
    first = world.archived("first", "v")
    world.write("v", 5 * CLUSTER, _noise(2))
    second = world.archived("second", "v")
    assert first.archive.stored_bytes > 32 * CLUSTER
    assert CLUSTER < second.archive.stored_bytes < 4 * CLUSTER


def test_snapshots_stay_incremental_and_right_after_deletions_and_folds(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1, 16 * CLUSTER))
    expected = {}
    for number in range(6):
        world.write("v", number * CLUSTER + 512, _noise(number, 1024))
        expected[f"s{number}"] = world.volume_bytes("v")
        snapshot = world.archived(f"s{number}", "v")
        if number:
            assert snapshot.archive.stored_bytes < 6 * CLUSTER
        if number in (2, 4):
            world.delete_snapshot(f"s{number - 1}")
            del expected[f"s{number - 1}"]
    assert {name: world.snapshot_bytes(name) for name in expected} == expected


def test_forty_regular_snapshots_leave_a_short_chain(world: worlds.World) -> None:
    world.volume("v")
    for number in range(40):
        world.write("v", (number % 60) * CLUSTER, _noise(number))
        world.archived(f"s{number}", "v")
    world.until(lambda: world.depth("v") <= 3)
    assert world.snapshot_bytes("s39") == world.volume_bytes("v")
    assert world.snapshot_bytes("s0")[:CLUSTER] == _noise(0)


def test_a_volume_on_too_many_layers_takes_no_snapshot_until_some_are_gone(world: worlds.World) -> None:
    world.volume("v")
    most = world.settings.max_chain_depth
    for number in range(most - 1):
        world.snapshot(f"s{number}", "v", rapid=True)
    with pytest.raises(errors.ChainDepth) as refused:
        world.snapshot("one-too-many", "v", rapid=True)
    assert refused.value.depth == most
    for number in range(most - 2):
        world.delete_snapshot(f"s{number}")
    world.until(lambda: world.depth("v") < most)
    assert world.snapshot("now", "v", rapid=True).state is model.SnapshotState.COMPLETED


def test_an_id_is_made_up_where_none_is_given(world: worlds.World) -> None:
    world.volume("v")
    snapshot = world.snapshot("", "v", rapid=True)
    assert snapshot.id.startswith("v-20260301t120000z-")
    assert world.get_snapshot(snapshot.id).uid == snapshot.uid


def test_an_id_is_taken_until_its_snapshot_is_gone(world: worlds.World) -> None:
    world.volume("v")
    first = world.snapshot("s", "v", rapid=True)
    with pytest.raises(errors.AlreadyExists):
        world.service.snapshots.create(
            worlds.request("CreateSnapshot"), "e", "s", "v", SnapshotSpec(True, "", {}, None)
        )
    world.delete_snapshot("s")
    assert world.snapshot("s", "v", rapid=True).uid != first.uid
