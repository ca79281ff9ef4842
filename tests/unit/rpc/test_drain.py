import asyncio
from collections.abc import Awaitable, Callable

import pytest

from snapd import errors
from snapd.rpc import drain, methods

_GET = methods.BY_NAME["GetVolume"]
_CREATE = methods.BY_NAME["CreateVolume"]
_WAIT = methods.BY_NAME["WaitOperation"]
_EXPORT = methods.BY_NAME["ExportVolume"]
_HEALTH = methods.find("/grpc.health.v1.Health/Watch")

PATIENCE_S = 30.0


async def _call(draining: drain.Drain, method: methods.Method, body: Callable[[], Awaitable[object]]) -> None:
    async with draining.call(method):
        await body()


async def _begun(draining: drain.Drain, method: methods.Method) -> tuple[asyncio.Task[None], asyncio.Event]:
    """Return a call that is under way, and the event that lets it end."""
    inside, may_end = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        inside.set()
        await may_end.wait()

    task = asyncio.create_task(_call(draining, method, body))
    await inside.wait()
    return task, may_end


@pytest.mark.parametrize("method", [_WAIT, _EXPORT])
def test_a_drain_ends_what_waits_and_streams(method: methods.Method) -> None:
    async def scene() -> None:
        draining = drain.Drain()
        task, _may_end = await _begun(draining, method)
        await draining.begin(PATIENCE_S)
        with pytest.raises(errors.Draining):
            await task

    asyncio.run(scene())


def test_a_drain_lets_a_change_finish_before_it_ends_the_health_watches() -> None:
    async def scene() -> None:
        draining = drain.Drain()
        change, may_end = await _begun(draining, _CREATE)
        watch, _never = await _begun(draining, _HEALTH)
        drained = asyncio.create_task(draining.begin(PATIENCE_S))
        await asyncio.sleep(0)
        with pytest.raises(errors.Draining):
            await _call(draining, _CREATE, asyncio.Event().wait)
        assert not any(task.done() for task in (drained, change, watch))
        may_end.set()
        await asyncio.gather(drained, change)
        with pytest.raises(errors.Draining):
            await watch

    asyncio.run(scene())


def test_a_drain_gives_up_on_a_change_after_its_grace() -> None:
    async def scene() -> None:
        draining = drain.Drain()
        change, may_end = await _begun(draining, _CREATE)
        await draining.begin(0.0)
        assert not change.done()
        may_end.set()
        await change

    asyncio.run(scene())


@pytest.mark.parametrize("method", [_CREATE, _WAIT, _EXPORT])
def test_nothing_new_that_changes_or_stays_begins_in_a_drain(method: methods.Method) -> None:
    async def scene() -> None:
        draining = drain.Drain()
        await draining.begin(PATIENCE_S)
        with pytest.raises(errors.Draining):
            await _call(draining, method, asyncio.Event().wait)

    asyncio.run(scene())


def test_reads_are_answered_in_a_drain() -> None:
    async def scene() -> None:
        draining = drain.Drain()
        await draining.begin(PATIENCE_S)
        read = []

        async def body() -> None:
            read.append(True)

        await _call(draining, _GET, body)
        assert read

    asyncio.run(scene())


def test_a_timeout_of_the_call_itself_is_not_taken_for_a_drain() -> None:
    async def scene() -> None:
        async def body() -> None:
            raise TimeoutError

        with pytest.raises(TimeoutError):
            await _call(drain.Drain(), _WAIT, body)

    asyncio.run(scene())
