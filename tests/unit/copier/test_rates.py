"""Rates and what follows from them, by a clock of the test's."""

import datetime

import pytest

from snapd.copier import control as controls
from snapd.copier import rate


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_rate_is_that_of_the_last_seconds(clock: Clock) -> None:
    measured = rate.Rate(clock)
    for _ in range(40):
        clock.now_s += 0.5
        measured.add(500)
    assert measured.per_second() == pytest.approx(1000, rel=0.06)
    for _ in range(20):
        clock.now_s += 0.5
        measured.add(50)
    assert measured.per_second() == pytest.approx(100, rel=0.06)
    clock.now_s += rate.WINDOW_S
    assert measured.per_second() == 0


def test_nothing_is_said_too_early(clock: Clock) -> None:
    measured = rate.Rate(clock)
    measured.add(1_000_000)
    clock.now_s += 0.5
    assert measured.per_second() == 0
    clock.now_s += 1.5
    assert measured.per_second() == 500_000


def test_many_small_steps_are_kept_in_little_memory(clock: Clock) -> None:
    measured = rate.Rate(clock)
    for _ in range(100_000):
        clock.now_s += 0.001
        measured.add(1)
    assert len(measured._buckets) <= 50
    assert measured.per_second() == pytest.approx(1000, rel=0.06)


def test_work_tells_its_rate_and_what_is_left(clock: Clock) -> None:
    control = controls.Control(clock)
    control.begin("ARCHIVING", 10_000)
    assert control.progress() == controls.Progress("ARCHIVING", 0, 10_000, 0)
    assert control.progress().remaining is None
    for _ in range(4):
        clock.now_s += 1
        control.advance(1_000)
    progress = control.progress()
    assert (progress.bytes_done, progress.bytes_per_second) == (4_000, 1_000)
    assert progress.remaining == datetime.timedelta(seconds=6)
    control.advance(6_000)
    control.go_on_to("VERIFYING")
    assert control.progress() == controls.Progress("VERIFYING", 10_000, 10_000, 0)
    control.begin("FLUSHING")
    assert control.progress() == controls.Progress("FLUSHING", 0, 0, 0)
