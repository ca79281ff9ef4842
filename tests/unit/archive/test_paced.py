"""A store that is slowed down: how long things take by the clock, and what giving up leaves."""

import datetime

import pytest

from snapd import clock as clocks
from snapd import errors
from snapd import pace as paces
from snapd.archive.backends import memory, paced

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
RATE = 1000


class Stores:
    """A store in memory and a paced one on it, on a clock that waits move on."""

    def __init__(self) -> None:
        self.clock = clocks.ManualClock(START)
        self.below = memory.MemoryBackend()
        self.paced = paced.PacedBackend(self.below, paces.Pace(self.clock, RATE), self._wait)
        self.patience = 1_000

    def _wait(self, clock: clocks.Clock, until: datetime.datetime) -> None:
        self.patience -= 1
        if self.patience < 0:
            raise TimeoutError
        if until > clock.now():
            self.clock.advance(until - clock.now())

    def passed_s(self) -> float:
        return (self.clock.now() - START).total_seconds()


@pytest.fixture
def stores() -> Stores:
    return Stores()


def test_what_is_written_and_read_takes_its_time(stores: Stores) -> None:
    upload = stores.paced.upload("a")
    upload.append([bytes(4 * RATE), bytes(RATE)])
    upload.finish()
    assert 4 <= stores.passed_s() <= 5
    stores.paced.put("b", [bytes(2 * RATE)])
    assert 6 <= stores.passed_s() <= 7
    assert stores.paced.get("a") == bytes(5 * RATE)
    assert 11 <= stores.passed_s() <= 12
    assert stores.paced.get_range("a", RATE, RATE) == bytes(RATE)
    assert 12 <= stores.passed_s() <= 13


def test_what_moves_no_bytes_takes_no_time(stores: Stores) -> None:
    stores.below.put("a/b", [bytes(100 * RATE)])
    assert stores.paced.size("a/b") == 100 * RATE
    assert list(stores.paced.list("")) == [("a/b", 100 * RATE)]
    assert stores.paced.delete("a/b")
    with pytest.raises(errors.NotFound):
        stores.paced.get("a/b")
    assert stores.passed_s() == 0


def test_who_gives_up_in_the_middle_leaves_no_object(stores: Stores) -> None:
    stores.patience = 3
    upload = stores.paced.upload("a")
    with pytest.raises(TimeoutError):
        upload.append([bytes(10 * RATE)])
    upload.discard()
    stores.patience = 3
    with pytest.raises(TimeoutError):
        stores.paced.put("a", [bytes(10 * RATE)])
    assert stores.below.size("a") is None
