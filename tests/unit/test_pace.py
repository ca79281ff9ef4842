"""Paces: what is granted in any second, to whom, and that nobody has to wait it out."""

import dataclasses
import datetime
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapd import clock as clocks
from snapd import pace as paces
from snapd.copier import control as controls

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
RATE = 1000


@dataclasses.dataclass
class Journal:
    """Time that passes when somebody waits for it, and how long it took."""

    clock: clocks.ManualClock = dataclasses.field(default_factory=lambda: clocks.ManualClock(START))

    def wait(self, clock: clocks.Clock, until: datetime.datetime) -> None:
        assert clock is self.clock
        if until > self.clock.now():
            self.clock.advance(until - self.clock.now())

    @property
    def passed_s(self) -> float:
        return (self.clock.now() - START).total_seconds()


def test_without_a_rate_nothing_waits() -> None:
    pace = paces.Pace(clocks.ManualClock(START), 0)
    pace.take(1 << 60, lambda _clock, _until: pytest.fail("it waited"))
    assert pace.piece_bytes is None


def test_what_is_taken_takes_its_time() -> None:
    journal = Journal()
    pace = paces.Pace(journal.clock, RATE)
    for _ in range(100):
        pace.take(100, journal.wait)
    assert 9 <= journal.passed_s <= 10


def test_a_large_piece_is_granted_in_small_ones() -> None:
    journal = Journal()
    pace = paces.Pace(journal.clock, RATE)
    waits: list[datetime.datetime] = []

    def wait(clock: clocks.Clock, until: datetime.datetime) -> None:
        waits.append(until)
        journal.wait(clock, until)

    pace.take(10 * RATE, wait)
    assert len(waits) == 20
    assert 9 <= journal.passed_s <= 10


@given(
    st.lists(st.tuples(st.integers(1, 3 * RATE), st.integers(0, 3_000)), min_size=1, max_size=15),
    st.integers(RATE // 2, 3 * RATE),
)
def test_no_time_has_more_than_its_worth_and_that_of_a_second(takes: list[tuple[int, int]], rate: int) -> None:
    journal = Journal()
    pace = paces.Pace(journal.clock, rate)
    assert pace.piece_bytes is not None
    granted: list[tuple[float, int]] = []
    for count, idle_ms in takes:
        left = count
        while left:
            piece = min(left, pace.piece_bytes)
            pace.take(piece, journal.wait)
            granted.append((journal.passed_s, piece))
            left -= piece
        journal.clock.advance(datetime.timedelta(milliseconds=idle_ms))
    for first, (begin_s, _) in enumerate(granted):
        total = 0
        for end_s, piece in granted[first:]:
            total += piece
            # One byte more for each rounding to microseconds.
            assert total <= rate * (end_s - begin_s + 1) + len(granted)


def test_several_share_one_pace_in_the_order_in_which_they_ask() -> None:
    pace = paces.Pace(clocks.ManualClock(START), RATE)
    turns: list[tuple[str, datetime.datetime]] = []

    def waiter(name: str) -> paces.Wait:
        return lambda _clock, until: turns.append((name, until))

    for name in "abab":
        pace.take(500, waiter(name))
    assert [name for name, _ in turns] == ["a", "b", "a", "b"]
    starts = [(until - START).total_seconds() for _, until in turns]
    assert starts == [0, 0.5, 1, 1.5]


def test_a_clock_that_is_set_back_stops_nobody_for_long() -> None:
    clock = clocks.ManualClock(START)
    pace = paces.Pace(clock, RATE)
    pace.take(500, lambda _clock, _until: None)
    clock.advance(-datetime.timedelta(days=1))
    turns: list[datetime.datetime] = []
    pace.take(500, lambda _clock, until: turns.append(until))
    assert turns == [clock.now()]


@pytest.mark.parametrize("parked", [False, True])
def test_who_waits_for_his_turn_stops_as_soon_as_he_is_asked_to(parked: bool) -> None:
    # The clock stands still, so nothing but the request can end the wait.
    pace = paces.Pace(clocks.ManualClock(START), RATE)
    control = controls.Control()
    waiting = threading.Event()
    stopped: list[controls.Stopped] = []

    def wait(clock: clocks.Clock, until: datetime.datetime) -> None:
        if until > clock.now():
            waiting.set()
        control.wait(clock, until)

    def work() -> None:
        try:
            pace.take(100 * RATE, wait)
        except controls.Stopped as found:
            stopped.append(found)

    thread = threading.Thread(target=work)
    thread.start()
    assert waiting.wait(60)
    (control.park if parked else control.cancel)()
    thread.join(30)
    assert [found.parked for found in stopped] == [parked]


def test_who_was_asked_to_stop_before_does_not_begin_to_wait() -> None:
    control = controls.Control()
    control.cancel()
    with pytest.raises(controls.Stopped):
        paces.Pace(clocks.ManualClock(START), RATE).take(1, control.wait)


def test_a_wait_ends_when_its_time_has_come() -> None:
    clock = clocks.ManualClock(START)
    control = controls.Control()
    thread = threading.Thread(target=control.wait, args=(clock, START + datetime.timedelta(seconds=1)))
    thread.start()
    source = random.Random(1)
    while thread.is_alive():
        clock.advance(datetime.timedelta(milliseconds=source.randrange(1, 300)))
        thread.join(0.001)
    assert clock.now() >= START + datetime.timedelta(seconds=1)
