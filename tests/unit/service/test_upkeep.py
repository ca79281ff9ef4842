"""Checks of the archive and collections of its garbage that somebody asks for."""

import random
import threading

import pytest

from snapd import errors, fsops, model
from tests.unit.service import faults
from tests.unit.service import world as worlds

DATA = random.Random(1).randbytes(3 * worlds.CLUSTER)


@pytest.fixture
def archived(world: worlds.World) -> model.Snapshot:
    """Give the archived snapshot `s` of volume `v`."""
    world.volume("v")
    world.write("v", 0, DATA)
    snapshot = world.archived("s", "v")
    world.pass_time(days=1)
    return snapshot


def _scrub(world: worlds.World, environment_id: str = "e", request: model.Request | None = None) -> model.Operation:
    (operation,) = world.service.upkeep.of_environments(request or worlds.request("Scrub"), environment_id)
    return operation


def _verify(world: worlds.World) -> model.Operation:
    return world.service.upkeep.verify(worlds.request("VerifySnapshot"), "e", "s", "")[1]


def _flip(world: worlds.World) -> None:
    (pack,) = world.settings.archive_path.rglob("packs/*/*")
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[1000] ^= 1
    pack.write_bytes(data)


@pytest.mark.usefixtures("archived")
def test_a_scrub_checks_everything_and_tells_what_it_read(world: worlds.World) -> None:
    before = world.clock.now()
    ended = world.ended(_scrub(world))
    assert ended.error is None
    assert ended.result is not None
    assert ended.result["pack_count"] == 1
    assert ended.result["damaged_pack_count"] == 0
    assert ended.result["damaged_snapshots"] == []
    (pack,) = world.settings.archive_path.rglob("packs/*/*")
    assert ended.result["checked_bytes"] == pack.stat().st_size
    checked = world.get_snapshot("s").archive.checked
    assert checked is not None
    assert checked >= before


@pytest.mark.usefixtures("archived")
def test_a_scrub_finds_damage_and_names_whom_it_hits(world: worlds.World) -> None:
    _flip(world)
    ended = world.ended(_scrub(world))
    assert ended.error is None
    assert ended.result is not None
    assert (ended.result["damaged_pack_count"], ended.result["damaged_snapshots"]) == (
        1,
        ["environments/e/snapshots/s"],
    )
    assert world.get_snapshot("s").health is model.HealthState.DAMAGED


@pytest.mark.usefixtures("archived")
def test_a_snapshot_that_is_whole_is_verified_and_one_that_is_not_fails_with_its_ranges(world: worlds.World) -> None:
    assert world.ended(_verify(world)).error is None
    world.pass_time(days=1)
    _flip(world)
    error = world.ended(_verify(world)).error
    assert error is not None
    assert (error.branch, error.reason) == ("DataLoss", "SNAPSHOT_DAMAGED")
    assert world.get_snapshot("s").health is model.HealthState.DAMAGED


def test_what_is_not_archived_can_not_be_verified(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    with pytest.raises(errors.SnapshotNotArchived):
        _verify(world)


@pytest.mark.usefixtures("archived")
def test_a_stale_etag_keeps_a_snapshot_from_being_verified(world: worlds.World) -> None:
    with pytest.raises(errors.EtagMismatch):
        world.service.upkeep.verify(worlds.request("VerifySnapshot"), "e", "s", '"0"')


def test_all_environments_are_scrubbed_at_once(world: worlds.World) -> None:
    world.environment("f")
    begun = world.service.upkeep.of_environments(worlds.request("Scrub", ""), "-")
    assert [operation.target for operation in begun] == ["environments/e", "environments/f"]
    for operation in begun:
        world.succeed(operation)


@pytest.mark.usefixtures("archived")
@pytest.mark.parametrize("method", ["Scrub", "Collect"])
def test_the_same_request_names_the_same_operation(world: worlds.World, method: str) -> None:
    request = worlds.request(method)
    (first,) = world.service.upkeep.of_environments(request, "e")
    (again,) = world.service.upkeep.of_environments(request, "e")
    assert again.uid == first.uid
    world.succeed(first)
    (after,) = world.service.upkeep.of_environments(request, "e")
    assert (after.uid, after.done) == (first.uid, True)
    (another,) = world.service.upkeep.of_environments(worlds.request(method), "e")
    assert another.uid != first.uid
    world.succeed(another)


@pytest.mark.usefixtures("archived")
def test_a_scrub_under_way_is_shared_and_can_be_cancelled(world: worlds.World) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(operation: fsops.Operation) -> None:
        if operation.target == "scrub.before_commit" and not reached.is_set():
            reached.set()
            assert go_on.wait(faults.PATIENCE_S)

    with faults.observing(hold):
        first = _scrub(world)
        assert reached.wait(faults.PATIENCE_S)
        assert _scrub(world).uid == first.uid
        world.service.operations.cancel("e", first.id)
        go_on.set()
        error = world.ended(first).error
    assert error is not None
    assert error.reason == errors.OperationCancelled.reason
    world.succeed(_scrub(world))


@pytest.mark.usefixtures("archived")
@pytest.mark.parametrize(("method", "point"), [("Scrub", "scrub.before_commit"), ("Collect", "collect.before_commit")])
def test_upkeep_that_a_stop_interrupts_goes_on_after_the_start(world: worlds.World, method: str, point: str) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(operation: fsops.Operation) -> None:
        if operation.target == point and not reached.is_set():
            reached.set()
            assert go_on.wait(faults.PATIENCE_S)

    with faults.observing(hold):
        (begun,) = world.service.upkeep.of_environments(worlds.request(method), "e")
        assert reached.wait(faults.PATIENCE_S)
        stopping = threading.Thread(target=world.stop)
        stopping.start()
        go_on.set()
        stopping.join()
    world.start()
    world.succeed(begun)


@pytest.mark.usefixtures("archived")
def test_a_collection_frees_what_nothing_needs_any_more(world: worlds.World) -> None:
    world.service.work.pause(worlds.request("PauseWork", ""), [model.Worker.KEEPER], "", None)
    world.delete_snapshot("s")
    (begun,) = world.service.upkeep.of_environments(worlds.request("Collect"), "e")
    ended = world.ended(begun)
    assert ended.error is None
    assert ended.result is not None
    assert (ended.result["deleted_pack_count"], ended.result["postponed"]) == (1, False)
    assert int(str(ended.result["freed_bytes"])) > 0
    assert not list(world.settings.archive_path.rglob("packs/*/*"))
    world.service.work.resume(worlds.request("ResumeWork", ""), [model.Worker.KEEPER])


@pytest.mark.usefixtures("archived")
def test_while_the_archive_is_away_upkeep_fails_and_says_why(world: worlds.World) -> None:
    away = world.settings.archive_path.with_name("away")
    world.settings.archive_path.rename(away)
    for operation in (_scrub(world), _verify(world)):
        error = world.ended(operation).error
        assert error is not None
        assert error.reason == errors.ArchiveUnreachable.reason
    away.rename(world.settings.archive_path)
    assert world.get_snapshot("s").damage is None
