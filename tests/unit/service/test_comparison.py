"""What a service finds when it compares its stores after a start, and what it did with changes that were half done."""

import datetime
import shutil

import pytest

from snapd import errors, fsops, model
from snapd.service import comparison, recovery
from snapd.service.inspection import findings
from tests.unit.service import faults
from tests.unit.service import world as worlds

DATA = b"data" * 16384


def _compared(world: worlds.World) -> comparison.Compared:
    """Wait until all is compared, and return what was found."""
    world.until(lambda: world.service.comparison.compared().archive is not None)
    return world.service.comparison.compared()


def _found(world: worlds.World) -> list[tuple[findings.Kind, str, tuple[str, ...]]]:
    compared = _compared(world)
    assert compared.pool is not None
    assert compared.count == len(compared.found)
    return [(finding.kind, finding.subject, finding.affected) for finding in compared.found]


def test_nothing_is_found_where_nothing_is_wrong(world: worlds.World) -> None:
    world.volume("v")
    world.archived("s", "v")
    world.snapshot("r", "v", rapid=True)
    world.restart()
    assert _found(world) == []


def test_a_file_that_nothing_explains_is_told_and_left_alone(world: worlds.World) -> None:
    world.stop()
    stray = world.settings.pool_path / "00" / "notes.txt"
    stray.write_text("mine")
    world.start()
    assert _found(world) == [(findings.Kind.FILE_UNEXPLAINED, "00/notes.txt", ())]
    assert stray.read_text() == "mine"
    stray.unlink()


def test_a_half_made_layer_that_a_power_cut_brought_back_is_removed(world: worlds.World) -> None:
    world.volume("v")
    world.stop()
    uid = "0364047b-ac1c-42e0-91e9-a3ed149f900f"
    stray = world.settings.pool_path / "03" / f"{uid}.tmp"
    stray.write_bytes(DATA)
    # It isn't where a layer of its name would lie.
    other = world.settings.pool_path / "04" / f"{uid}.tmp"
    other.write_bytes(DATA)
    world.start()
    assert _found(world) == [(findings.Kind.FILE_UNEXPLAINED, f"04/{uid}.tmp", ())]
    assert not stray.exists()
    other.unlink()


def test_a_lost_layer_is_told_with_what_stands_on_it(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, DATA)
    world.snapshot("r", "v", rapid=True)
    world.clone("c", "r")
    (row,) = world.rows("SELECT layer FROM points")
    world.stop()
    path = world.layer_path(row["layer"])
    path.rename(path.with_name("elsewhere"))
    world.start()
    affected = ("environments/e/snapshots/r", "environments/e/volumes/c", "environments/e/volumes/v")
    assert _found(world) == [
        (findings.Kind.FILE_UNEXPLAINED, f"{row['layer'][:2]}/elsewhere", ()),
        (findings.Kind.LAYER_MISSING, row["layer"], affected),
    ]
    world.stop()
    path.with_name("elsewhere").rename(path)


def test_a_frozen_layer_that_a_power_cut_left_writable_is_made_read_only_again(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("r", "v", rapid=True)
    (row,) = world.rows("SELECT layer FROM points")
    world.stop()
    path = world.layer_path(row["layer"])
    path.chmod(0o640)
    world.start()
    assert _found(world) == []
    assert path.stat().st_mode & 0o777 == 0o440


def test_a_frozen_layer_is_made_read_only_without_leaks(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("r", "v", rapid=True)
    (row,) = world.rows("SELECT layer FROM points")
    world.stop()
    path = world.layer_path(row["layer"])
    worlds.leak(path)
    # A fold looks for leaks in what it finds writable only. The checker finds any that are left.
    world.start()
    assert _found(world) == []
    assert path.stat().st_mode & 0o777 == 0o440


def test_a_frozen_layer_with_worse_than_leaks_stays_writable_and_is_told(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, b"x" * worlds.CLUSTER)
    world.snapshot("r", "v", rapid=True)
    (row,) = world.rows("SELECT layer FROM points")
    world.stop()
    path = world.layer_path(row["layer"])
    sound = path.read_bytes()
    path.chmod(0o640)
    l1 = int.from_bytes(sound[40:48])
    path.write_bytes(sound[:l1] + (1 << 40 | 512).to_bytes(8) + sound[l1 + 8 :])
    world.start()
    assert [kind for kind, _, _ in _found(world)] == [findings.Kind.LAYER_WRITABLE]
    assert path.stat().st_mode & 0o777 == 0o640
    world.stop()
    path.write_bytes(sound)
    world.start()


def test_an_archive_that_is_away_is_compared_when_it_is_back(world: worlds.World) -> None:
    world.volume("v")
    world.archived("s", "v")
    world.stop()
    away = world.settings.archive_path.with_name("away")
    world.settings.archive_path.rename(away)
    world.start()
    world.until(lambda: world.service.comparison.compared().archive_problem is not None)
    compared = world.service.comparison.compared()
    assert compared.archive is None
    assert compared.archive_problem is not None
    assert compared.archive_problem.reason == errors.ArchiveUnreachable.reason
    shutil.rmtree(world.settings.archive_path, ignore_errors=True)
    away.rename(world.settings.archive_path)
    world.clock.advance(comparison.AGAIN + datetime.timedelta(seconds=1))
    assert _found(world) == []
    assert world.service.comparison.compared().archive_problem is None


def test_a_lost_manifest_is_told_and_keeps_its_packs_from_being_collected(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, DATA)
    uid = world.archived("s", "v").uid
    world.write("v", 0, DATA[::-1])
    world.archived("t", "v")
    world.stop()
    (manifest,) = (path for path in world.settings.archive_path.rglob("*") if uid in path.name)
    content = manifest.read_bytes()
    manifest.unlink()
    world.start()
    assert _found(world) == [(findings.Kind.COPY_MISSING, uid, ("environments/e/snapshots/s",))]
    world.until(lambda: world.get_snapshot("s").health is model.HealthState.DAMAGED)
    world.delete_snapshot("t")
    (begun,) = world.service.upkeep.of_environments(worlds.request("Collect"), "e")
    error = world.ended(begun).error
    assert error is not None
    assert (error.reason, uid in error.message) == (errors.Corrupt.reason, True)
    # The last manifest of an environment takes its folder along.
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_bytes(content)
    (begun,) = world.service.upkeep.of_environments(worlds.request("Collect"), "e")
    world.succeed(begun)
    (checked,) = world.service.upkeep.of_environments(worlds.request("Scrub"), "e")
    world.succeed(checked)
    assert world.get_snapshot("s").health is model.HealthState.OK
    assert world.snapshot_bytes("s").startswith(DATA)


@pytest.mark.parametrize("good", [True, False])
def test_a_change_that_was_half_done_is_told_with_its_end(world: worlds.World, good: bool) -> None:
    world.volume("v")
    world.write("v", 0, DATA)

    class Killed(BaseException):
        pass

    def kill(operation: fsops.Operation) -> None:
        if operation.target == "capture.before_commit":
            raise Killed

    with faults.observing(kill), pytest.raises(Killed):
        world.snapshot("s", "v", rapid=True)
    world.stop()
    # A store that fails when it is opened again keeps the change from being finished.
    observer = faults.fail_at_point(28, "capture.before_commit")
    if good:
        world.start()
    else:
        with faults.observing(observer):
            world.start()
    (change,) = world.service.recovered.changes
    assert change.intent.kind == "capture"
    assert change.outcome is (recovery.Outcome.FINISHED if good else recovery.Outcome.UNDONE)
    assert (change.problem is None) is good
    if good:
        assert change.target == "environments/e/snapshots/s"
        assert world.get_snapshot("s").state is model.SnapshotState.COMPLETED
        assert world.service.recovered.of(recovery.Outcome.FINISHED) == [change.intent]
