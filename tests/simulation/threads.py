"""Locks, conditions, threads and pools that keep to a scheduler's turns, in the shape of the standard library's."""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from tests.simulation import scheduler as schedulers


class Lock:
    """threading.Lock and, if `reentrant`, threading.RLock."""

    def __init__(self, scheduler: schedulers.Scheduler, *, reentrant: bool = False) -> None:
        self._scheduler = scheduler
        self._reentrant = reentrant
        self._owner: schedulers.Turn | None = None
        self._depth = 0
        self._waiting: list[schedulers.Turn] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        scheduler = self._scheduler
        scheduler.pause()
        if self._reentrant and self._owner is scheduler.current:
            self._depth += 1
            return True
        until_s = scheduler.now_s + timeout if timeout >= 0 else None
        while self._owner is not None:
            if not blocking:
                return False
            self._waiting.append(scheduler.current)
            if not scheduler.block(until_s):
                self._waiting.remove(scheduler.current)
                return False
        self._owner = scheduler.current
        self._depth = 1
        return True

    def release(self) -> None:
        if self._scheduler.dead:
            # Those who wait are dead as well.
            return
        assert self._owner is self._scheduler.current, "a lock is released by whoever holds it"
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            self._scheduler.wake(turn)

    def locked(self) -> bool:
        return self._owner is not None

    def let_go(self) -> int:
        """Release it whole, and return how often it was held."""
        assert self._owner is self._scheduler.current
        depth, self._depth, self._owner = self._depth, 0, None
        self._wake()
        return depth

    def take_back(self, depth: int) -> None:
        """Hold it as before let_go."""
        self.acquire()
        self._depth = depth

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class Condition:
    """threading.Condition."""

    def __init__(self, scheduler: schedulers.Scheduler, lock: Lock | None = None) -> None:
        self._scheduler = scheduler
        self._lock = Lock(scheduler, reentrant=True) if lock is None else lock
        self._waiting: list[schedulers.Turn] = []

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = self._scheduler
        me = scheduler.current
        depth = self._lock.let_go()
        self._waiting.append(me)
        woken = scheduler.block(None if timeout is None else scheduler.now_s + max(0.0, timeout))
        if not woken and me in self._waiting:
            self._waiting.remove(me)
        self._lock.take_back(depth)
        return woken

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        until_s = None if timeout is None else self._scheduler.now_s + timeout
        while not predicate():
            left = None if until_s is None else until_s - self._scheduler.now_s
            if left is not None and left <= 0:
                return False
            self.wait(left)
        return True

    def notify(self, n: int = 1) -> None:
        woken, self._waiting = self._waiting[:n], self._waiting[n:]
        for turn in woken:
            self._scheduler.wake(turn)

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class Event:
    """threading.Event."""

    def __init__(self, scheduler: schedulers.Scheduler) -> None:
        self._changed = Condition(scheduler)
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        with self._changed:
            self._set = True
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(self.is_set, timeout)


class Semaphore:
    """threading.BoundedSemaphore."""

    def __init__(self, scheduler: schedulers.Scheduler, value: int = 1) -> None:
        self._changed = Condition(scheduler)
        self._most = self._value = value

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._value > 0, timeout if blocking else 0):
                return False
            self._value -= 1
            return True

    def release(self) -> None:
        with self._changed:
            assert self._value < self._most, "released more often than acquired"
            self._value += 1
            self._changed.notify()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class Thread:
    """threading.Thread."""

    def __init__(
        self,
        scheduler: schedulers.Scheduler,
        target: Callable[[], None],
        name: str = "thread",
        daemon: bool = False,
    ) -> None:
        del daemon
        self._scheduler = scheduler
        self._target = target
        self._name = name
        self._ended = Event(scheduler)
        self.ident: int | None = None

    def start(self) -> None:
        self.ident = self._scheduler.begin(self._name, self._run).ident

    def _run(self) -> None:
        self._target()
        self._ended.set()

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)

    def is_alive(self) -> bool:
        return self.ident is not None and not self._ended.is_set()


class Future:
    """concurrent.futures.Future."""

    def __init__(self, scheduler: schedulers.Scheduler) -> None:
        self._changed = Condition(scheduler)
        self._state = "pending"
        self._result: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future], None]] = []

    def cancel(self) -> bool:
        with self._changed:
            if self._state in ("running", "done"):
                return False
            self._state = "cancelled"
            self._changed.notify_all()
        self._call_back()
        return True

    def cancelled(self) -> bool:
        return self._state == "cancelled"

    def done(self) -> bool:
        return self._state in ("cancelled", "done")

    def result(self, timeout: float | None = None) -> Any:
        self._wait(timeout)
        if self._error is not None:
            raise self._error
        return self._result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._wait(timeout)
        return self._error

    def _wait(self, timeout: float | None) -> None:
        if not self.rest(timeout):
            raise TimeoutError
        if self._state == "cancelled":
            raise concurrent.futures.CancelledError

    def rest(self, timeout: float | None) -> bool:
        """Wait until it is done or cancelled, and say whether it is."""
        with self._changed:
            return self._changed.wait_for(self.done, timeout)

    def add_done_callback(self, callback: Callable[["Future"], None]) -> None:
        if self.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    def _call_back(self) -> None:
        for callback in self._callbacks:
            callback(self)

    def work(self, task: Callable[[], Any]) -> None:
        """Run a task and hold what comes of it, unless it was cancelled."""
        with self._changed:
            if self._state != "pending":
                return
            self._state = "running"
        try:
            self._result = task()
        except schedulers.Killed:
            raise
        except BaseException as error:
            self._error = error
        with self._changed:
            self._state = "done"
            self._changed.notify_all()
        self._call_back()


class Waited(NamedTuple):
    """What concurrent.futures.wait returns."""

    done: set[Future]
    not_done: set[Future]


class Executor:
    """concurrent.futures.ThreadPoolExecutor."""

    def __init__(
        self, scheduler: schedulers.Scheduler, max_workers: int | None = None, thread_name_prefix: str = "pool"
    ) -> None:
        self._scheduler = scheduler
        self._most = max_workers or 2
        self._name = thread_name_prefix
        self._changed = Condition(scheduler)
        self._tasks: collections.deque[tuple[Future, Callable[[], Any]]] = collections.deque()
        self._workers: list[Thread] = []
        self._idle = 0
        self._ending = False

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future:
        future = Future(self._scheduler)
        with self._changed:
            if self._ending:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._tasks.append((future, functools.partial(function, *arguments, **named)))
            if self._idle < len(self._tasks) and len(self._workers) < self._most:
                worker = Thread(self._scheduler, self._work, f"{self._name}-{len(self._workers)}")
                self._workers.append(worker)
                worker.start()
            self._changed.notify()
        return future

    def map(self, function: Callable[..., Any], *arguments: Iterable[Any]) -> Iterator[Any]:
        futures = [self.submit(function, *each) for each in zip(*arguments, strict=False)]
        return (future.result() for future in futures)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: bool(self._tasks) or self._ending)
                self._idle -= 1
                if not self._tasks:
                    return
                future, task = self._tasks.popleft()
            future.work(task)
            del future, task

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._scheduler.dead:
            return
        with self._changed:
            self._ending = True
            dropped = list(self._tasks) if cancel_futures else []
            if cancel_futures:
                self._tasks.clear()
            self._changed.notify_all()
        for future, _ in dropped:
            future.cancel()
        if wait:
            for worker in self._workers:
                worker.join()

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()


def wait(futures: Iterable[Future], timeout: float | None = None) -> Waited:
    """concurrent.futures.wait, for all of them."""
    every = list(futures)
    rested = {future for future in every if future.rest(timeout)}
    return Waited(rested, set(every) - rested)
