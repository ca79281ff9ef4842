"""Pins: who reads which layers, so that a fold stays away and a doomed file is kept until the last reader is gone.

They live in memory only: after a restart nobody reads.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Pins:
    """Counts of readers, and layers that somebody has to himself."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers: Counter[str] = Counter()
        self._exclusive: set[str] = set()
        self._on_release: list[Callable[[], None]] = []

    def on_release(self, callback: Callable[[], None]) -> None:
        """Call back, outside of any lock, whenever a layer loses its last reader, or who had it to himself."""
        self._on_release.append(callback)

    @contextmanager
    def reading(self, uids: Iterable[str]) -> Iterator[None]:
        """Hold layers against folds and removal; waits while one of them is being folded."""
        held = tuple(uids)
        self.acquire(held)
        try:
            yield
        finally:
            self.release(held)

    def acquire(self, uids: Iterable[str]) -> None:
        """Pin layers; waits while one of them is being folded."""
        held = tuple(uids)
        with self._changed:
            self._changed.wait_for(lambda: self._exclusive.isdisjoint(held))
            self._readers.update(held)

    def release(self, uids: Iterable[str]) -> None:
        """Let go of layers that acquire pinned."""
        freed = False
        with self._changed:
            for uid in uids:
                self._readers[uid] -= 1
                if self._readers[uid] == 0:
                    del self._readers[uid]
                    freed = True
            self._changed.notify_all()
        if freed:
            self._tell()

    def _tell(self) -> None:
        for callback in self._on_release:
            callback()

    @contextmanager
    def alone(self, uids: Iterable[str]) -> Iterator[bool]:
        """Have layers to oneself if nobody reads them; yields whether that is so."""
        wanted = frozenset(uids)
        with self._changed:
            free = self._exclusive.isdisjoint(wanted) and not any(uid in self._readers for uid in wanted)
            if free:
                self._exclusive |= wanted
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._exclusive -= wanted
                    self._changed.notify_all()
                self._tell()

    def is_pinned(self, uid: str) -> bool:
        """Say whether anybody reads, or has, a layer."""
        with self._changed:
            return uid in self._readers or uid in self._exclusive
