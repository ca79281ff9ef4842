"""Runs in which catalogs are lost and rebuilt: a sample for every day, many seeds for `make torture`."""

import os
import pathlib
import random
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FIXED = range(1, 13)
FRESH = 3
MANY = 800


def _simulate(first: int, count: int) -> None:
    """Run seeds in a process whose hashes are fixed, so that a seed means the same everywhere."""
    arguments = ["-m", "tests.simulation", "--lose", "--seeds", str(count), "--start", str(first)]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.timeout(600)
def test_a_rebuilt_catalog_stands_the_seeds_that_are_always_run() -> None:
    _simulate(FIXED.start, len(FIXED))


@pytest.mark.timeout(600)
def test_a_rebuilt_catalog_stands_seeds_that_nobody_has_run() -> None:
    first = random.SystemRandom().randrange(10**6, 10**9)
    print(f"first seed: {first}")
    _simulate(first, FRESH)


@pytest.mark.torture
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("part", range(4))
def test_a_rebuilt_catalog_stands_many_seeds(part: int) -> None:
    first = random.SystemRandom().randrange(10**6, 10**9)
    print(f"first seed: {first}, part {part}")
    _simulate(first, MANY // 4)
