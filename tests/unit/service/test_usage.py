"""What snapshots and environments say that they take."""

import random
import shutil

import pytest

from snapd import errors, fsops, model, units
from snapd.service import usage
from tests.unit.service import faults
from tests.unit.service import world as worlds

CLUSTER = worlds.CLUSTER


def _noise(seed: int, clusters: int = 1) -> bytes:
    return random.Random(seed).randbytes(clusters * CLUSTER)


def _figures(world: worlds.World, snapshot_id: str) -> model.ArchiveFigures:
    return world.get_snapshot(snapshot_id).archive.figures


def test_a_snapshot_tells_what_archiving_it_took(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1, 4))
    assert _figures(world, world.snapshot("s", "v", rapid=True).id) == model.ArchiveFigures()
    first = world.archived("first", "v")
    assert first.archive.figures == model.ArchiveFigures(changed=4 * CLUSTER, read=4 * CLUSTER, new=4 * CLUSTER)
    assert first.archive.stored_bytes > 4 * CLUSTER
    # One block that is new, one that is there already elsewhere, one that is zeroed.
    world.write("v", 0, _noise(2))
    world.write("v", CLUSTER, _noise(1))
    world.zero("v", 2 * CLUSTER, CLUSTER)
    second = world.archived("second", "v")
    assert second.archive.figures == model.ArchiveFigures(
        changed=3 * CLUSTER, read=2 * CLUSTER, zero=CLUSTER, deduplicated=CLUSTER, new=CLUSTER
    )
    assert CLUSTER < second.archive.stored_bytes < 2 * CLUSTER


def test_the_figures_of_a_run_that_was_cut_off_are_those_of_its_manifest(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1))
    struck: list[fsops.Operation] = []

    def strike(operation: fsops.Operation) -> None:
        if operation.target == "archive_run.before_commit" and not struck:
            struck.append(operation)
            raise faults.error(5)

    with faults.observing(strike):
        world.snapshot("s", "v", rapid=False)
        world.until(lambda: world.get_snapshot("s").archive.error is not None)
        world.pass_time(hours=1)
        world.until(lambda: world.get_snapshot("s").archive.state is model.ArchiveState.ARCHIVED)
    assert _figures(world, "s").new == CLUSTER


def test_an_environment_adds_up_what_is_in_it(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1, 4))
    world.archived("first", "v")
    world.write("v", 0, _noise(2))
    world.archived("second", "v")
    world.snapshot("rapid", "v", rapid=True)
    world.volume("w", size_bytes=units.MIB)
    world.environment("other")
    found = world.service.usages.of_environment("e")
    assert (found.volumes, found.snapshots, found.archived_snapshots) == (2, 3, 2)
    assert found.provisioned_bytes == worlds.SIZE + units.MIB
    assert found.logical_bytes == 2 * worlds.SIZE
    assert (found.figures.changed, found.figures.new) == (5 * CLUSTER, 5 * CLUSTER)
    assert found.primary.shared == 0
    assert found.primary.exclusive > 5 * CLUSTER
    assert found.stored_bytes is not None
    assert found.stored_bytes > 5 * CLUSTER
    # The second needs most of the first one's pack too; what only it needs is freed with it.
    (second, of_second), (first, of_first) = found.by_snapshot
    assert (second, first) == (world.get_snapshot("second").uid, world.get_snapshot("first").uid)
    assert of_second.exclusive > CLUSTER
    assert of_first.exclusive == 0
    assert of_first.shared == of_second.shared > 4 * CLUSTER
    assert world.service.usages.of_environment("other") == usage.EnvironmentUsage(
        "other", 0, 0, 0, 0, model.Space(0, 0), 0, model.ArchiveFigures(), 0, ()
    )
    with pytest.raises(errors.NotFound):
        world.service.usages.of_environment("none")


def test_while_the_archive_is_away_the_rest_is_told(
    world: worlds.World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world.volume("v")
    world.write("v", 0, _noise(1))
    world.archived("s", "v")
    elsewhere = tmp_path_factory.mktemp("away") / "archive"
    shutil.move(world.settings.archive_path, elsewhere)
    found = world.service.usages.of_environment("e")
    shutil.move(elsewhere, world.settings.archive_path)
    assert (found.stored_bytes, found.figures.new, found.by_snapshot) == (None, CLUSTER, ())
