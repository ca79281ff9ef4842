"""Who relies on which pack: what keeps a collection off packs that no manifest shows yet.

A pin counts from the moment it is set until it is given back, and, if a collection is running then, until that
collection has ended: it may have listed the manifests before the one was published that now refers to the pack. Whoever
finds a pack and pins it does both under `lock`; whoever collects asks `is_pinned` and forgets the pack under it.
"""

import collections
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Pins:
    """Counted pins on pack ids. Knows no pack and no manifest."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._counts: collections.Counter[bytes] = collections.Counter()
        self._collections = 0
        self._given_back: list[bytes] = []

    def pin(self, pack_ids: Iterable[bytes]) -> None:
        """Rely on packs. Each call counts."""
        with self.lock:
            self._counts.update(pack_ids)

    def unpin(self, pack_ids: Iterable[bytes]) -> None:
        """Give back what one call of pin took."""
        with self.lock:
            if self._collections:
                self._given_back.extend(pack_ids)
            else:
                self._drop(pack_ids)

    def is_pinned(self, pack_id: bytes) -> bool:
        """True while anybody relies on the pack, or a running collection has to assume so."""
        with self.lock:
            return pack_id in self._counts

    def pinned(self) -> set[bytes]:
        """Return the packs of which is_pinned is true now."""
        with self.lock:
            return set(self._counts)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep what is given back meanwhile. It is entered before manifests are listed."""
        with self.lock:
            self._collections += 1
        try:
            yield
        finally:
            with self.lock:
                self._collections -= 1
                if not self._collections:
                    self._drop(self._given_back)
                    self._given_back = []

    def _drop(self, pack_ids: Iterable[bytes]) -> None:
        for pack_id in pack_ids:
            self._counts[pack_id] -= 1
            if not self._counts[pack_id]:
                del self._counts[pack_id]
