import datetime
import threading

from snapd import clock as clocks

START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def test_a_manual_clock_stands_still_until_it_is_advanced() -> None:
    clock = clocks.ManualClock(START)
    assert clock.now() == clock.now() == START
    clock.advance(HOUR)
    assert clock.now() == START + HOUR


def test_advancing_wakes_everybody_who_waits() -> None:
    clock = clocks.ManualClock(START)
    condition = threading.Condition()
    waiting = threading.Barrier(4)
    woken: list[datetime.datetime] = []

    def wait() -> None:
        waiting.wait()
        with condition:
            while clock.now() < START + HOUR:
                clock.wait(condition, START + HOUR)
            woken.append(clock.now())

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    waiting.wait()
    clock.advance(HOUR / 2)
    clock.advance(HOUR / 2)
    for thread in threads:
        thread.join()
    assert woken == [START + HOUR] * 3


def test_waiting_for_the_past_returns_at_once() -> None:
    condition = threading.Condition()
    for clock in (clocks.ManualClock(START), clocks.SystemClock()):
        begin = clocks.monotonic_s()
        with condition:
            clock.wait(condition, START)
        assert clocks.monotonic_s() - begin < clocks.LONGEST_WAIT_S / 2


def test_the_system_clock_says_utc_and_wakes_when_notified() -> None:
    clock = clocks.SystemClock()
    assert clock.now().tzinfo is datetime.UTC
    condition = threading.Condition()
    notified = threading.Event()

    def wait() -> None:
        with condition:
            notified.set()
            clock.wait(condition, None)

    thread = threading.Thread(target=wait)
    thread.start()
    notified.wait()
    with condition:
        condition.notify_all()
    thread.join(clocks.LONGEST_WAIT_S / 2)
    assert not thread.is_alive()
