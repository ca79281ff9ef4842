import asyncio
import threading

from snapd.rpc import hub


def test_everybody_who_waits_hears_of_a_commit_in_another_thread() -> None:
    async def scene() -> None:
        bell = hub.Hub(asyncio.get_running_loop())
        waiting = [asyncio.create_task(bell.wait(bell.ticket(), None)) for _ in range(100)]
        threading.Thread(target=bell.committed, args=(1,)).start()
        await asyncio.gather(*waiting)

    asyncio.run(scene())


def test_a_commit_between_taking_the_ticket_and_waiting_is_not_missed() -> None:
    async def scene() -> None:
        bell = hub.Hub(asyncio.get_running_loop())
        ticket = bell.ticket()
        committing = threading.Thread(target=bell.committed, args=(1,))
        committing.start()
        await asyncio.to_thread(committing.join)
        await bell.wait(ticket, None)
        assert not bell.ticket().done()

    asyncio.run(scene())


def test_a_wait_ends_at_its_time_limit_and_leaves_the_others_waiting() -> None:
    async def scene() -> None:
        bell = hub.Hub(asyncio.get_running_loop())
        other = asyncio.create_task(bell.wait(bell.ticket(), None))
        await bell.wait(bell.ticket(), 0.0)
        assert not other.done()
        bell.committed(1)
        await other

    asyncio.run(scene())
