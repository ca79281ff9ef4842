"""Tells those who wait in the event loop that something was committed, whichever thread did it."""

import asyncio


class Hub:
    """A bell that rings once for all who wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._next: asyncio.Future[None] = loop.create_future()

    def committed(self, _revision: int) -> None:
        """Ring. May be called in any thread; returns at once."""
        self._loop.call_soon_threadsafe(self._ring)

    def ticket(self) -> asyncio.Future[None]:
        """Return what is done at the next ring. Take it before looking, so that no commit falls in between."""
        return self._next

    async def wait(self, ticket: asyncio.Future[None], timeout_s: float | None) -> None:
        """Wait for a ticket's ring, or for timeout_s at most."""
        await asyncio.wait([ticket], timeout=timeout_s)

    def _ring(self) -> None:
        rung, self._next = self._next, self._loop.create_future()
        rung.set_result(None)
