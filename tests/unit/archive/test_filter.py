"""The filter says of no name that was added that it wasn't, and of few others that they may have been."""

import random

import pytest

from snapd.archive import filter as filters
from snapd.archive import index
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, content


@pytest.mark.parametrize("seed", range(4))
def test_what_was_added_is_held_and_little_else_seems_to_be(seed: int) -> None:
    rng = random.Random(seed)
    made = filters.Filter(30_000)
    added = [rng.randbytes(32) for _ in range(60_000)]
    for start in range(0, len(added), 7_000):
        made.add(b"".join(name[: filters.PREFIX] for name in added[start : start + 7_000]))
    assert made.count == len(added)
    assert all(made.may_hold(name) for name in added)
    wrong = sum(made.may_hold(rng.randbytes(32)) for _ in range(20_000))
    assert wrong < 20_000 // 100


def test_names_at_the_limits_of_their_numbers_are_held() -> None:
    made = filters.Filter(0)
    extremes = [bytes(16), b"\xff" * 16, b"\xff" * 8 + bytes(8), bytes(8) + b"\xff" * 8]
    made.add(b"".join(extremes))
    assert all(made.may_hold(name + bytes(16)) for name in extremes)


def test_an_index_finds_what_came_before_and_after_its_filter_was_made(
    archive: archives.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "_SMALLEST", 4)
    blocks = {number: content(number) for number in range(8)}
    archive.record("one", blocks)
    for turn in range(3):
        # The filter is outgrown again and again.
        more = {number: content((turn, number)) for number in range(8)}
        assert archive.record(f"new-{turn}", more).new_blocks == 8
        assert archive.record(f"again-{turn}", more).deduplicated_blocks == 8
    archive.reopen()
    assert archive.record("two", blocks).deduplicated_blocks == 8


def test_an_environment_with_too_many_names_for_a_filter_is_asked_for_each(
    archive: archives.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "LARGEST", 1)
    archive.record("one", {0: content(0), 1: content(1)}, 2 * BLOCK)
    archive.reopen()
    assert archive.record("two", {0: content(0), 1: content(2)}, 2 * BLOCK).deduplicated_blocks == 1
    found: index.Index = archive.repository._access.index
    assert found._filters == {}
