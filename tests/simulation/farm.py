"""Runs seeds, each in a folder of its own in memory, and makes a plan that fails as small as it goes."""

import dataclasses
import logging
import os
import pathlib
import tempfile
import traceback
from collections.abc import Callable
from typing import Final

from tests.simulation import lost, run

_MEMORY = pathlib.Path("/dev/shm")
_MOST_TRIES = 150

Fails = Callable[[run.Plan], bool]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed."""

    digest: str
    figures: run.Figures
    failure: str | None
    story: str
    """How it failed, and how to have it again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What runs are like."""

    make: type[run.Run]
    plan: Callable[[int], run.Plan]
    option: str
    """Of the command line, with a blank behind it, or ''."""


ORDINARY: Final = Kind(run.Run, run.plan, "")
LOSING: Final = Kind(lost.Run, lost.plan, "--lose ")
"""Their catalogs are lost."""


def run_seed(seed: int, *, small: bool, kind: Kind = ORDINARY) -> Outcome:
    """Run a seed; if it fails, run smaller plans that fail alike, if asked for."""
    plan = kind.plan(seed)
    outcome = run_plan(plan, kind)
    if outcome.failure is None:
        return outcome
    again = f"again: .venv/bin/python -m tests.simulation {kind.option}--seeds 1 --start {seed}"
    if small:
        plan = shrunk(plan, outcome.failure, kind)
        outcome = dataclasses.replace(run_plan(plan, kind), failure=outcome.failure)
    steps = "\n".join(f"  {step}" for step in plan.steps)
    faults = "\n".join(f"  {fault}" for fault in plan.faults)
    story = f"{outcome.story}\n{again}\nin {plan.lives} lives, steps:\n{steps}\nfaults:\n{faults}"
    return dataclasses.replace(outcome, story=story)


def run_plan(plan: run.Plan, kind: Kind = ORDINARY) -> Outcome:
    """Run a plan, as a run of some kind."""
    logging.getLogger("snapd").propagate = logging.getLogger().isEnabledFor(logging.INFO)
    folder = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=folder) as name:
        running = kind.make(plan, pathlib.Path(name))
        try:
            return Outcome(running.execute(), running.figures, None, "")
        except Exception as error:
            # Whatever a run ends with is what it found; a kill of the simulated process never gets here.
            story = "".join(traceback.format_exception(error))
            return Outcome("", running.figures, f"{type(error).__name__}: {error}", story)


def shrunk(plan: run.Plan, failure: str, kind: Kind = ORDINARY) -> run.Plan:
    """Return a plan with fewer steps and faults that fails with the same kind of error."""
    error = failure.partition(":")[0]
    tries = 0

    def fails(candidate: run.Plan) -> bool:
        nonlocal tries
        tries += 1
        found = run_plan(candidate, kind).failure
        return found is not None and found.partition(":")[0] == error

    for lives in range(1, plan.lives):
        if fails(dataclasses.replace(plan, lives=lives)):
            plan = dataclasses.replace(plan, lives=lives)
            break
    plan = dataclasses.replace(
        plan,
        steps=tuple(step for step in plan.steps if step.life < plan.lives),
        faults=tuple(fault for fault in plan.faults if fault.life < plan.lives),
    )
    size = max(1, len(plan.steps) // 2)
    while tries < _MOST_TRIES:
        smaller = _without_some(plan, size, fails)
        if smaller == plan and size == 1:
            break
        plan, size = smaller, max(1, size // 2)
    return plan


def _without_some(plan: run.Plan, size: int, fails: Fails) -> run.Plan:
    """Return a plan without the runs of so many steps, and the single faults, that it fails without."""
    at = 0
    while at < len(plan.steps):
        candidate = dataclasses.replace(plan, steps=plan.steps[:at] + plan.steps[at + size :])
        if fails(candidate):
            plan = candidate
        else:
            at += size
    for fault in plan.faults:
        candidate = dataclasses.replace(plan, faults=tuple(each for each in plan.faults if each != fault))
        if fails(candidate):
            plan = candidate
    return plan
