"""Replays what the fuzzer starts from, and what it once found."""

import pathlib
import random
import time
from collections.abc import Iterator

import pytest

from tests.fuzz import mutation, oracle, sparse

_HERE = pathlib.Path(__file__).parent
_SEEDS = sorted((_HERE / "corpus").glob("*.bin"))
_REGRESSIONS = sorted((_HERE / "regressions").glob("*.bin"))
_LONGEST_S = 10
"""Seconds that one file may take on a busy machine; alone it takes a fraction of one."""


@pytest.fixture
def judge(tmp_path: pathlib.Path) -> Iterator[oracle.Judge]:
    judge = oracle.Judge(tmp_path)
    yield judge
    judge.close()


@pytest.mark.parametrize("path", [*_SEEDS, *_REGRESSIONS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_files_that_were_found_are_handled(judge: oracle.Judge, path: pathlib.Path) -> None:
    began = time.monotonic()
    judge.judge(path.read_bytes())
    assert time.monotonic() - began < _LONGEST_S


@pytest.mark.parametrize("path", _SEEDS, ids=lambda path: path.stem)
def test_files_survive_being_packed(path: pathlib.Path) -> None:
    file = sparse.unpack(path.read_bytes())
    assert file.startswith(b"QFI\xfb")
    assert sparse.unpack(sparse.pack(file)) == file


@pytest.mark.parametrize("path", _SEEDS, ids=lambda path: path.stem)
def test_a_few_mutations_of_every_seed_are_handled(judge: oracle.Judge, path: pathlib.Path) -> None:
    data = path.read_bytes()
    for seed in range(8):
        changed = data
        for step in range(random.Random(seed).randrange(1, 4)):
            changed = mutation.mutate(changed, 1 << 16, seed * 100 + step, lambda piece, _: piece[::-1])
        try:
            judge.judge(changed)
        except BaseException as error:
            error.add_note(f"seed {seed} of {path.name}")
            raise
