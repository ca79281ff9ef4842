"""What snapshots and operations tell of work that waits, is under way, or has failed before."""

import dataclasses
import datetime
import errno
import random

from snapd import model, units
from snapd.copier import control as controls
from snapd.service import core as cores
from tests.unit.service import faults
from tests.unit.service import world as worlds

NOISE = random.Random(8).randbytes(8 * worlds.CLUSTER)


class _Noting(controls.Control):
    """Notes the stages that it is told."""

    stages: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.stages = []

    def begin(self, stage: str, bytes_total: int = 0) -> None:
        self.stages.append(stage)
        super().begin(stage, bytes_total)

    def go_on_to(self, stage: str) -> None:
        self.stages.append(stage)
        super().go_on_to(stage)


def _volume(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)


def _operation(world: worlds.World, snapshot_id: str) -> model.Operation:
    page = world.service.operations.list(model.Query("e", "me", 100, "", "", "create_time desc"))
    return next(found for found in page.items if found.target.endswith(f"/{snapshot_id}"))


def test_archiving_goes_through_its_stages_in_order(world: worlds.World) -> None:
    made: list[_Noting] = []

    def make() -> _Noting:
        made.append(_Noting())
        return made[-1]

    _volume(world)
    world.service._core.controls._make = make
    world.archived("s", "v")
    assert [control.stages for control in made if control.stages] == [["PLANNING", "ARCHIVING", "VERIFYING"]]


def test_what_is_verified_is_done_already(world: worlds.World) -> None:
    _volume(world)
    held = faults.Held("archive.before-proof")
    with faults.observing(held):
        world.snapshot("s", "v", rapid=False)
        held.reach()
        archive, operation = world.get_snapshot("s").archive, _operation(world, "s")
        assert archive.state is model.ArchiveState.VERIFYING
        assert archive.bytes_done == archive.bytes_total == len(NOISE)
        assert (operation.stage, operation.bytes_done, operation.attempt) == ("VERIFYING", len(NOISE), 1)
        held.go_on()
        world.succeed(operation)
    assert (_operation(world, "s").stage, _operation(world, "s").attempt) == ("", 1)


def test_the_rate_and_the_estimated_end_are_told(world: worlds.World) -> None:
    world.restart(dataclasses.replace(world.settings, archive_bytes_per_second=64 * units.KIB))
    _volume(world)
    world.snapshot("s", "v", rapid=False)
    world.until(lambda: _operation(world, "s").stage == "ARCHIVING")
    now_s = [0.0]
    control = controls.Control(lambda: now_s[0])
    core = dataclasses.replace(world.service._core, controls=cores.Controls(lambda: control))
    with core.controls.running("archive", world.get_snapshot("s").uid):
        control.begin("ARCHIVING", 4000)
        now_s[0] = 2.0
        control.advance(1000)
        told = core.with_progress(_operation(world, "s"))
        assert (told.bytes_done, told.bytes_total, told.bytes_per_second) == (1000, 4000, 500)
        assert told.estimated_end == world.clock.now() + datetime.timedelta(seconds=6)
    world.delete_snapshot("s")


def test_what_waits_says_what_it_waits_for_and_which_attempt_comes(world: worlds.World) -> None:
    _volume(world)
    world.service.work.pause(worlds.request("PauseWork", ""), (), "", None)
    world.snapshot("s", "v", rapid=False)
    assert (_operation(world, "s").stage, _operation(world, "s").attempt) == ("PAUSED", 1)
    with faults.observing(faults.fail_at_point(errno.EIO, "archive_run.before_commit")):
        world.service.work.resume(worlds.request("ResumeWork", ""), ())
        world.until(lambda: world.get_snapshot("s").archive.error is not None)
    assert (_operation(world, "s").stage, _operation(world, "s").attempt) == ("WAITING", 2)
    world.service.work.pause(worlds.request("PauseWork", ""), (), "", None)
    assert _operation(world, "s").stage == "WAITING", "it isn't due"
    world.pass_time(hours=1)
    assert _operation(world, "s").stage == "PAUSED"
    world.service.work.resume(worlds.request("ResumeWork", ""), ())
    world.succeed(_operation(world, "s"))
    assert _operation(world, "s").attempt == 2
