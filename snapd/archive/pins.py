"""Who relies on which pack: what keeps a collection off packs that no manifest shows yet.

A pin counts from the moment it is set until it is given back, and, if a collection is running then, until that
collection has ended: it may have listed the manifests before the one was published that now refers to the pack. Whoever
finds a pack and pins it does both under `lock`; whoever collects asks `is_pinned`, forgets the pack and condemns it
under it; and whoever has listed what the store holds adds nothing to what can be found that is condemned by then.
"""

import collections
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Pins:
    """Counted pins on pack ids. Knows no pack and no manifest."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._counts: collections.Counter[bytes] = collections.Counter()
        self._collections = 0
        self._given_back: list[bytes] = []
        self._condemned: set[bytes] = set()
        self._waiting: dict[str, tuple[frozenset[bytes], Callable[[], None]]] = {}

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

    def condemn(self, pack_id: bytes) -> None:
        """Have nobody find a pack any more, as long as the running collection goes on."""
        with self.lock:
            self._condemned.add(pack_id)

    def is_condemned(self, pack_id: bytes) -> bool:
        """True for a pack that a running collection is about to delete."""
        with self.lock:
            return pack_id in self._condemned

    def pinned(self) -> set[bytes]:
        """Return the packs of which is_pinned is true now."""
        with self.lock:
            return set(self._counts)

    def when_free(self, environment_uid: str, pack_ids: Iterable[bytes], callback: Callable[[], None]) -> None:
        """Call back, once, when nobody relies on any of an environment's packs; only its latest call counts.

        `callback` is called under `lock`, and must return at once.
        """
        with self.lock:
            self._waiting[environment_uid] = (frozenset(pack_ids), callback)
            self._tell()

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
                    self._condemned.clear()

    def _drop(self, pack_ids: Iterable[bytes]) -> None:
        for pack_id in pack_ids:
            self._counts[pack_id] -= 1
            if not self._counts[pack_id]:
                del self._counts[pack_id]
        self._tell()

    def _tell(self) -> None:
        waiting = self._waiting.items()
        free = [uid for uid, (pack_ids, _) in waiting if not any(pack_id in self._counts for pack_id in pack_ids)]
        for uid in free:
            _, callback = self._waiting.pop(uid)
            callback()
