"""Mutexes by key: one mutation of a volume, or one restore of a point, at a time.

The order in which locks are taken, everywhere: a volume's mutex, then a point's, then pins, then the catalog's writer.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class KeyedLocks:
    """A mutex per key, there only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._users: Counter[str] = Counter()

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Hold the mutex of a key. Not re-entrant."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
            self._users[key] += 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                self._users[key] -= 1
                if self._users[key] == 0:
                    del self._users[key], self._locks[key]
