"""Schedules: processes that share a store, run one store operation at a time in an order that a seed chooses.

Each process is a thread that waits before each of its operations until it is its turn; so an operation that was decided
on may take effect much later, as a late request does, and a process can be paused for as long as the schedule likes.
Same seed, same run.
"""

import dataclasses
import datetime
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeVar

from snapd.archive.backends import backend, memory

T = TypeVar("T")


class Inline(futures.Executor):
    """Runs what is submitted at once, in the caller's thread: so that a process has but one."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "futures.Future[T]":
        future: futures.Future[T] = futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class Killed(BaseException):
    """Raised in a process at each operation once it was killed; what would be in flight never happens."""


class Clock:
    """The store's clock, moved by hand."""

    def __init__(self) -> None:
        self.now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def __call__(self) -> datetime.datetime:
        return self.now

    def advance(self, step: datetime.timedelta) -> None:
        self.now += step


class Hooked:
    """A store that calls back before each operation."""

    def __init__(self, store: memory.MemoryBackend, before: Callable[[str], None]) -> None:
        self.settling = store.settling
        self._store = store
        self._before = before

    def upload(self, key: str) -> backend.Upload:
        return _HookedUpload(self._store.upload(key), lambda: self._before(f"put {key}"))

    def put(self, key: str, chunks: Iterable[backend.Bytes]) -> None:
        self._before(f"put {key}")
        self._store.put(key, chunks)

    def get(self, key: str) -> bytes:
        self._before(f"get {key}")
        return self._store.get(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._before(f"get {key}")
        return self._store.get_range(key, offset, length)

    def size(self, key: str) -> int | None:
        self._before(f"size {key}")
        return self._store.size(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._before(f"list {prefix}")
        return self._store.list(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        self._before(f"list {prefix}")
        return self._store.folders(prefix)

    def modified(self, key: str) -> datetime.datetime | None:
        self._before(f"size {key}")
        return self._store.modified(key)

    def now(self) -> datetime.datetime:
        return self._store.now()

    def delete(self, key: str) -> bool:
        self._before(f"delete {key}")
        return self._store.delete(key)

    def drop_cache(self, key: str) -> None:
        self._store.drop_cache(key)

    def discard_unfinished(self, prefix: str) -> int:
        return self._store.discard_unfinished(prefix)

    def free_bytes(self) -> int | None:
        return self._store.free_bytes()


class _HookedUpload:
    def __init__(self, upload: backend.Upload, before: Callable[[], None]) -> None:
        self._upload = upload
        self._before = before

    def append(self, buffers: Sequence[backend.Bytes]) -> None:
        self._upload.append(buffers)

    def finish(self) -> None:
        self._before()
        self._upload.finish()

    def discard(self) -> None:
        self._upload.discard()


@dataclasses.dataclass(eq=False)
class Process:
    """A process of a schedule."""

    name: str
    weight: float
    """How often it is its turn, compared with others; 0 pauses it while others run."""
    thread: threading.Thread | None = None
    ended: bool = False
    waiting: bool = False
    next: str = ""
    """The operation before which it waits."""
    killed: bool = False
    failure: BaseException | None = None


class Schedule:
    """Whose turn it is. All randomness comes from its seed."""

    def __init__(self, store: memory.MemoryBackend, seed: int) -> None:
        self.rng = random.Random(seed)
        self.steps: list[str] = []
        """What was done, in order, to be shown when something went wrong."""
        self._store = store
        self._changed = threading.Condition()
        self._turn: Process | None = None
        self._processes: list[Process] = []

    def start(self, name: str, weight: float, work: Callable[[backend.Backend], None]) -> Process:
        """Begin a process: it runs up to its first operation."""
        process = Process(name, weight)
        store = Hooked(self._store, lambda what: self._wait_for_turn(process, what))

        def run() -> None:
            try:
                work(store)
            except Killed:
                pass
            except BaseException as error:
                process.failure = None if process.killed else error
            finally:
                with self._changed:
                    process.ended = True
                    self._turn = None
                    self._changed.notify_all()

        process.thread = threading.Thread(target=run, name=name, daemon=True)
        self._processes.append(process)
        process.thread.start()
        self._settle(process)
        return process

    def run(self, steps: int | None = None, until: Callable[[], bool] = lambda: False) -> None:
        """Let processes take turns, until all have ended or so many steps were made; those of weight 0 run last.

        `until` ends it earlier.
        """
        while (steps is None or steps > 0) and not until():
            able = [process for process in self._processes if not process.ended]
            if not able:
                break
            weights = [process.weight for process in able]
            if not any(weights):
                if steps is not None:
                    break
                weights = [1.0] * len(able)
            self._step(self.rng.choices(able, weights)[0])
            if steps is not None:
                steps -= 1
        for process in self._processes:
            if process.failure is not None:
                raise process.failure

    def kill(self, process: Process) -> None:
        """End a process at the operation before which it waits."""
        process.killed = True
        while not process.ended:
            self._step(process)

    def _step(self, process: Process) -> None:
        with self._changed:
            self._turn = process
            process.waiting = False
            self._changed.notify_all()
        self._settle(process)

    def _settle(self, process: Process) -> None:
        """Wait until a process waits for its next turn, or has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: process.waiting or process.ended, timeout=60), "it hangs"

    def _wait_for_turn(self, process: Process, what: str) -> None:
        with self._changed:
            process.waiting = True
            process.next = what
            self._turn = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn is process)
            if process.killed:
                raise Killed
            self.steps.append(f"{process.name}: {what}")
