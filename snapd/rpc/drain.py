"""Stopping without cutting anybody off: what waits is told to come back, what changes something finishes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from snapd import errors
from snapd.rpc import methods


class Drain:
    """The calls under way on all listeners, and their orderly end. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._begun = False
        self._scopes: dict[methods.Kind, set[asyncio.Timeout]] = {kind: set() for kind in methods.Kind}
        self._finishing = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @asynccontextmanager
    async def call(self, method: methods.Method) -> AsyncIterator[None]:
        """Take part as a call of method. Raises Draining at once or, in a call that waits or streams, at any point."""
        stays = method.kind is not methods.Kind.UNARY
        if self._begun and (stays or method.changes) and method.kind is not methods.Kind.WATCH:
            raise errors.Draining
        if method.kind is not methods.Kind.WATCH:
            self._finishing += 1
            self._quiet.clear()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                if stays:
                    self._scopes[method.kind].add(scope)
                yield
        except TimeoutError as error:
            if scope.expired():
                raise errors.Draining from error
            raise
        finally:
            self._scopes[method.kind].discard(scope)
            if method.kind is not methods.Kind.WATCH:
                self._finishing -= 1
                if self._finishing == 0:
                    self._quiet.set()

    async def begin(self, grace_s: float) -> None:
        """Refuse what is new, end waits and streams, and wait until calls have finished, for grace_s at most."""
        self._begun = True
        self._interrupt(methods.Kind.WAIT)
        self._interrupt(methods.Kind.STREAM)
        try:
            async with asyncio.timeout(grace_s):
                await self._quiet.wait()
        except TimeoutError:
            # The servers cut off what is left; the work itself goes on in its thread to its end.
            pass
        self._interrupt(methods.Kind.WATCH)

    def _interrupt(self, kind: methods.Kind) -> None:
        now = asyncio.get_running_loop().time()
        for scope in self._scopes[kind]:
            scope.reschedule(now)
