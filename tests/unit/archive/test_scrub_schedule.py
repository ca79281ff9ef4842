"""Which packs are checked when: each within the interval, never many at once."""

import collections
import dataclasses
import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapd.archive import index, scrub

START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
INTERVAL = datetime.timedelta(days=30)
PERIOD = datetime.timedelta(minutes=10)


def pack(number: int, checked: datetime.datetime | None) -> index.Pack:
    return index.Pack(number.to_bytes(16), 1, index.State.PROVEN, 1, checked)


def run(
    packs: dict[bytes, index.Pack], now: datetime.datetime, length: datetime.timedelta, period: datetime.timedelta
) -> list[tuple[datetime.datetime, bytes]]:
    """Check what is to be checked, period after period, and return when what was."""
    checks = []
    end = now + length
    while now < end:
        for one in scrub.due_evenly(packs.values(), now, INTERVAL, period):
            packs[one.pack_id] = dataclasses.replace(one, checked=now)
            checks.append((now, one.pack_id))
        now += period
    return checks


@pytest.mark.parametrize("count", [1, 7, 300])
def test_what_was_written_in_one_day_is_checked_on_all_days(count: int) -> None:
    period = datetime.timedelta(hours=2)
    packs = {one.pack_id: one for one in (pack(number, START) for number in range(count))}
    checks = run(packs, START, INTERVAL + period, period)
    assert sorted(pack_id for _, pack_id in checks) == sorted(packs), "each once"
    days = collections.Counter((now - START).days for now, _ in checks)
    assert max(days.values()) <= -(-count // 30) + 1
    if count == 1:
        assert checks[0][0] == START + INTERVAL, "one by itself waits until its time has come"


def test_what_is_new_is_left_alone() -> None:
    packs = [pack(number, START) for number in range(1_000)]
    assert not scrub.due_evenly(packs, START, INTERVAL, datetime.timedelta(0))
    assert len(scrub.due_evenly(packs, START, INTERVAL, PERIOD)) <= 1


def test_what_should_have_been_checked_long_ago_is_caught_up_with_bit_by_bit() -> None:
    for checked in (None, START - 10 * INTERVAL):
        packs = [pack(number, checked) for number in range(10_000)]
        wanted = scrub.due_evenly(packs, START, INTERVAL, PERIOD)
        assert 0 < len(wanted) < 50
    assert scrub.due_evenly([pack(0, None)], START, INTERVAL, PERIOD)


@given(st.lists(st.integers(0, 30 * 24), max_size=60))
def test_nothing_waits_longer_than_an_interval_whenever_it_was_checked(hours_ago: list[int]) -> None:
    period = datetime.timedelta(hours=6)
    packs = {
        one.pack_id: one
        for one in (pack(number, START - datetime.timedelta(hours=hours)) for number, hours in enumerate(hours_ago))
    }
    last = {pack_id: one.checked for pack_id, one in packs.items()}
    for now, pack_id in run(packs, START, 2 * INTERVAL, period):
        before = last[pack_id]
        assert before is not None
        # Many that come due at once are caught up with at ten times the mean rate.
        assert now - before <= INTERVAL + INTERVAL / 10 + 2 * period
        last[pack_id] = now
