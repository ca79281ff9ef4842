"""The power is cut at every operation of a fold down: what files claim by headers and modes is true all the while."""

import pytest

from snapd import fsops
from tests.simulation import actions, farm, run, weather

_STORY = ("create", "write", "write", "capture", "write", "capture", "write", "capture", *("rest",) * 4)
_SEEDS = range(1, 13)
_MOST = 60
"""Operations that are tried behind the one at which the fold begins."""


def _plan(seed: int, at: int) -> run.Plan:
    steps = [actions.Step(0, 0, kind, seed * 100 + number) for number, kind in enumerate(_STORY)]
    return run.Plan(seed, 1, tuple(steps), (weather.Fault(0, "power", at),), worst=True)


def _fold(monkeypatch: pytest.MonkeyPatch, seed: int) -> tuple[int, int] | None:
    """Return the first and the last operation of a seed's first fold down while callers are at work, if it has one."""
    seen: dict[str, int] = {}
    observe = weather.Weather.__call__

    def note(self: weather.Weather, operation: fsops.Operation) -> int | None:
        if not self.calm and operation.target in ("fold.marked", "fold.relinked"):
            seen.setdefault(operation.target, self._operations)
        return observe(self, operation)

    with monkeypatch.context() as patch:
        patch.setattr(weather.Weather, "__call__", note)
        assert farm.run_plan(_plan(seed, 10**9)).failure is None
    if "fold.marked" not in seen or "fold.relinked" not in seen:
        return None
    # The marks are made in the six operations before the point.
    return seen["fold.marked"] - 8, min(seen["fold.relinked"] + 8, seen["fold.marked"] + _MOST)


@pytest.mark.timeout(600)
def test_a_power_cut_within_a_fold_leaves_no_file_that_claims_what_it_does_not_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in _SEEDS:
        fold = _fold(monkeypatch, seed)
        if fold is None:
            continue
        for at in range(*fold):
            outcome = farm.run_plan(_plan(seed, at))
            assert outcome.failure is None, f"seed {seed}, power cut at operation {at}: {outcome.story}"
            assert outcome.figures.power_cuts, f"seed {seed}: operation {at} was never reached"
        return
    pytest.fail("no seed has a fold down")
