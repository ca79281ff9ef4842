"""The scheduler and its locks: turns are taken one at a time, time jumps, and a death is final."""

import functools
import pathlib

import pytest

from tests.simulation import scheduler as schedulers
from tests.simulation import threads


@pytest.fixture
def scheduler() -> schedulers.Scheduler:
    """Make a scheduler that switches as often as it can."""
    return schedulers.Scheduler(1, 1.0)


def _join(scheduler: schedulers.Scheduler, *workers: threads.Thread) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not scheduler.failures


def test_a_lock_is_held_by_one_at_a_time(scheduler: schedulers.Scheduler) -> None:
    lock = threads.Lock(scheduler)
    inside: list[str] = []

    def work(name: str) -> None:
        for _ in range(20):
            with lock:
                inside.append(name)
                scheduler.pause()
                assert inside == [name]
                inside.clear()

    _join(scheduler, *(threads.Thread(scheduler, functools.partial(work, name), name) for name in "abc"))


def test_a_day_passes_at_once_when_nobody_can_run(scheduler: schedulers.Scheduler) -> None:
    changed = threads.Condition(scheduler)
    with changed:
        assert not changed.wait(86400.0)
    assert 86400.0 <= scheduler.now_s < 86401.0


def test_whoever_waits_is_woken_before_the_time_is_over(scheduler: schedulers.Scheduler) -> None:
    event = threads.Event(scheduler)
    waker = threads.Thread(scheduler, event.set)
    waker.start()
    assert event.wait(60.0)
    assert scheduler.now_s < 1.0


def test_that_nobody_can_ever_run_again_is_a_failure(scheduler: schedulers.Scheduler) -> None:
    with pytest.raises(schedulers.Killed):
        threads.Event(scheduler).wait()
    scheduler.bury()
    assert isinstance(scheduler.failures[0], schedulers.Deadlock)


def test_nobody_changes_anything_once_the_process_is_dead(
    scheduler: schedulers.Scheduler, tmp_path: pathlib.Path
) -> None:
    lock = threads.Lock(scheduler)

    def work() -> None:
        try:
            scheduler.sleep(3600.0)
        finally:
            with lock:
                (tmp_path / "written").touch()

    threads.Thread(scheduler, work).start()
    scheduler.sleep(1.0)
    scheduler.kill()
    scheduler.bury()
    scheduler.revive()
    assert list(tmp_path.iterdir()) == []
    assert not scheduler.failures


def test_a_pool_keeps_to_its_size_and_hands_on_errors(scheduler: schedulers.Scheduler) -> None:
    running: list[int] = []

    def work(number: int) -> int:
        running.append(number)
        assert len(running) <= 2
        scheduler.pause()
        running.remove(number)
        return 1 // number

    with threads.Executor(scheduler, 2) as pool:
        futures = [pool.submit(work, number) for number in (1, 2, 0, 3)]
        assert isinstance(futures[2].exception(), ZeroDivisionError)
        assert [futures[index].result() for index in (0, 1, 3)] == [1, 0, 0]
