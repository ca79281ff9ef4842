"""The simulation as tests: a sample for every day, many seeds for `make torture`, and the simulation itself."""

import os
import pathlib
import random
import subprocess
import sys

import pytest

from tests.simulation import farm, run

ROOT = pathlib.Path(__file__).parents[2]
FIXED = (range(1, 41), range(41, 81))
FRESH = 40
"""Seeds of each part: on one processor all parts together take two or three minutes."""
MANY = 1500


def _simulate(first: int, count: int) -> None:
    """Run seeds in a process whose hashes are fixed, so that a seed means the same everywhere."""
    arguments = ["-m", "tests.simulation", "--seeds", str(count), "--start", str(first)]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", FIXED, ids=str)
def test_the_service_stands_the_seeds_that_are_always_run(seeds: range) -> None:
    _simulate(seeds.start, len(seeds))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(2))
def test_the_service_stands_seeds_that_nobody_has_run(part: int) -> None:
    first = random.SystemRandom().randrange(10**6, 10**9)
    print(f"first seed: {first}, part {part}")
    _simulate(first, FRESH)


@pytest.mark.torture
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("part", range(4))
def test_the_service_stands_many_seeds(part: int) -> None:
    first = random.SystemRandom().randrange(10**6, 10**9)
    print(f"first seed: {first}, part {part}")
    _simulate(first, MANY // 4)


@pytest.mark.parametrize("seed", [3, 10])
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    first, second = (farm.run_plan(run.plan(seed)) for _ in range(2))
    assert first.failure is None, first.story
    assert first.digest == second.digest
    assert first.figures == second.figures


def test_another_seed_is_another_run() -> None:
    assert farm.run_plan(run.plan(3)).digest != farm.run_plan(run.plan(4)).digest
