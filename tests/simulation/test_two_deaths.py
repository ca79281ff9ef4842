"""A kill at every operation of a story, a restart that finishes what was begun, and then the worst power cut.

What the second process finds done it must not take for durable: the first one may have died before it synced.
"""

import os

import pytest

from tests.simulation import actions, farm, run, weather

_CAPTURES = ("create", "write", "capture", "write", "capture", "revert", "write", "clone")
_ARCHIVING = ("create", "write", "capture", "archive", "write", "capture", "delete_snapshot", "rest", "rest")
_FOLDING = (
    "create",
    "write",
    "capture",
    "write",
    "capture",
    "write",
    "capture",
    "rest",
    "rest",
    "delete_snapshot",
    "rest",
)
_IMPORT = ("bring", "write", "capture", "rest")
STORIES = {"captures": _CAPTURES, "archiving": _ARCHIVING, "folding": _FOLDING, "import": _IMPORT}
_MOST = 3000
_STRIDE = int(os.environ.get("STRIDE", "37"))
"""A story is killed at each so-manieth operation; `make torture` leaves out none."""


def _plan(story: str, seed: int, at: int) -> run.Plan:
    steps = [actions.Step(0, 0, kind, seed * 100 + number) for number, kind in enumerate(STORIES[story])]
    faults = (weather.Fault(0, "kill", at), weather.Fault(1, "power", 0))
    return run.Plan(seed, 2, (*steps, actions.Step(1, 0, "write", seed)), faults, worst=True)


def _sweep(story: str, seed: int, first: int, stride: int) -> None:
    reached = 0
    for at in range(first, _MOST, stride):
        outcome = farm.run_plan(_plan(story, seed, at))
        assert outcome.failure is None, f"{story}, seed {seed}, killed at operation {at}: {outcome.story}"
        if not outcome.figures.kills:
            break
        reached += 1
    assert reached, "nothing was killed"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("story", STORIES)
def test_what_a_killed_process_left_is_made_durable_by_the_next_one(story: str) -> None:
    _sweep(story, 1, 1, _STRIDE)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("story", STORIES)
def test_no_kill_leaves_anything_that_the_next_process_takes_for_durable(story: str, seed: int) -> None:
    _sweep(story, seed, 1, 1)
