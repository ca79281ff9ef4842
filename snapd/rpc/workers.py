"""The bounded pools of threads in which the synchronous service does its work for the event loop.

What has begun in a thread is never undone because the call that asked for it was cancelled.
"""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound="Closable")

CALL_THREADS = 16
STREAM_THREADS = 8


class Workers:
    """Threads for calls, and others for streams, so that bulk data never keeps a short call waiting."""

    def __init__(self) -> None:
        self._calls = concurrent.futures.ThreadPoolExecutor(CALL_THREADS, "call")
        self._streams = concurrent.futures.ThreadPoolExecutor(STREAM_THREADS, "stream")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call function in a thread."""
        return await asyncio.wrap_future(self._calls.submit(function, *args, **kwargs))

    def lane(self) -> "Lane":
        """Return a lane for one stream."""
        return Lane(self._streams)

    def close(self) -> None:
        """Wait until every thread has finished what it does."""
        self._calls.shutdown()
        self._streams.shutdown()


class Closable(Protocol):
    """What has to be closed by whoever opened it."""

    def close(self) -> None:
        """Close it, in any thread; once is enough."""
        ...


async def result(future: concurrent.futures.Future[T]) -> T:
    """Wait for what a thread does, without stopping it if the call is cancelled. Raises what it raises."""
    return await asyncio.shield(asyncio.wrap_future(future))


class Lane:
    """One stream's thread work: one piece after the other, at most one piece ahead of the event loop."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self._executor = executor
        self._ahead: concurrent.futures.Future[Any] | None = None

    async def start(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[T]:
        """Have function called in a thread once the piece before it is done, and don't wait for it.

        Raises what the piece before raised.
        """
        await self.settle()
        future = self._executor.submit(function, *args, **kwargs)
        self._ahead = future
        return future

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call function in a thread once the piece before it is done. Raises what either raises."""
        return await result(await self.start(function, *args, **kwargs))

    async def open(self, function: Callable[P, C], *args: P.args, **kwargs: P.kwargs) -> C:
        """Call function in a thread; what it returns is closed if the call is cancelled meanwhile."""
        future = await self.start(function, *args, **kwargs)
        try:
            return await result(future)
        except asyncio.CancelledError:
            future.add_done_callback(_close_result)
            raise

    async def settle(self) -> None:
        """Wait until nothing runs. Raises what the last piece raised."""
        if self._ahead is not None:
            await result(self._ahead)

    async def finish(self, function: Callable[[], None]) -> None:
        """Call function in a thread as the very last, whatever was raised before, and even if the call is cancelled."""
        await asyncio.shield(asyncio.ensure_future(self._finish(function)))

    async def _finish(self, function: Callable[[], None]) -> None:
        if self._ahead is not None:
            await asyncio.gather(asyncio.wrap_future(self._ahead), return_exceptions=True)
        await asyncio.wrap_future(self._executor.submit(function))


def _close_result(future: concurrent.futures.Future[C]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
