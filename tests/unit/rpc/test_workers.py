import asyncio
import threading

import pytest

from snapd.rpc import workers


class _Closable:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def _refuse() -> None:
    raise ValueError("refused")


def test_work_that_has_begun_ends_even_if_its_call_is_cancelled() -> None:
    async def scene() -> None:
        pool = workers.Workers()
        begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            may_end.wait()
            ended.set()

        call = asyncio.create_task(pool.run(work))
        await asyncio.to_thread(begun.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not ended.is_set()
        may_end.set()
        await asyncio.to_thread(pool.close)
        assert ended.is_set()

    asyncio.run(scene())


def test_a_lane_does_one_piece_after_the_other_and_is_one_ahead() -> None:
    async def scene() -> None:
        pool = workers.Workers()
        lane = pool.lane()
        may_go_on = threading.Event()
        done: list[int] = []

        def piece(number: int) -> None:
            may_go_on.wait()
            done.append(number)

        await lane.start(piece, 0)
        second = asyncio.create_task(lane.start(piece, 1))
        await asyncio.sleep(0)
        assert not second.done()
        may_go_on.set()
        await second
        for number in range(2, 20):
            await lane.start(piece, number)
        await lane.settle()
        assert done == list(range(20))
        pool.close()

    asyncio.run(scene())


def test_a_lane_tells_what_the_piece_before_raised() -> None:
    async def scene() -> None:
        pool = workers.Workers()
        lane = pool.lane()
        await lane.start(_refuse)
        with pytest.raises(ValueError, match="refused"):
            await lane.run(list)
        pool.close()

    asyncio.run(scene())


def test_a_lane_finishes_after_its_last_piece_whatever_that_raised() -> None:
    async def scene() -> None:
        pool = workers.Workers()
        lane = pool.lane()
        finished = threading.Event()
        await lane.start(_refuse)
        await lane.finish(finished.set)
        assert finished.is_set()
        pool.close()

    asyncio.run(scene())


def test_what_is_opened_for_a_cancelled_call_is_closed_again() -> None:
    async def scene() -> None:
        pool = workers.Workers()
        begun, may_end, opened = threading.Event(), threading.Event(), _Closable()

        def slow() -> _Closable:
            begun.set()
            may_end.wait()
            return opened

        call = asyncio.create_task(pool.lane().open(slow))
        await asyncio.to_thread(begun.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        may_end.set()
        await asyncio.to_thread(opened.closed.wait)
        pool.close()

    asyncio.run(scene())
