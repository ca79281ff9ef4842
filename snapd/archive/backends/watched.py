"""A store of which is known whether it could be reached when it was last asked.

It costs nothing to ask that, and asks nobody: what has been seen of the store's calls answers. An object that was found
is a sign that it is there; an empty listing isn't, since a folder that isn't mounted lists nothing.
"""

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from snapd import errors
from snapd.archive.backends import backend


class WatchedBackend:
    """A backend.Backend on another one."""

    def __init__(self, store: backend.Backend) -> None:
        """Watch the calls of `store`."""
        self.settling = store.settling
        self.trouble: errors.Unavailable | None = None
        """What kept its latest user from it; None once something was found there again."""
        self._store = store

    def found(self) -> None:
        """Note that the store is there."""
        self.trouble = None

    def missed(self, error: errors.Unavailable) -> None:
        """Note that the store isn't there."""
        # A copy, without the frames of whoever met it.
        self.trouble = dataclasses.replace(error)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except errors.Unavailable as error:
            self.missed(error)
            raise

    def upload(self, key: str) -> "WatchedUpload":
        with self._watched():
            return WatchedUpload(self._store.upload(key), self)

    def put(self, key: str, chunks: Iterable[backend.Bytes]) -> None:
        with self._watched():
            self._store.put(key, chunks)

    def get(self, key: str) -> bytes:
        with self._watched():
            data = self._store.get(key)
        self.found()
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with self._watched():
            data = self._store.get_range(key, offset, length)
        self.found()
        return data

    def size(self, key: str) -> int | None:
        with self._watched():
            size_bytes = self._store.size(key)
        if size_bytes is not None:
            self.found()
        return size_bytes

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._watched():
            for found in self._store.list(prefix):
                self.found()
                yield found

    def folders(self, prefix: str) -> Iterator[str]:
        with self._watched():
            for found in self._store.folders(prefix):
                self.found()
                yield found

    def modified(self, key: str) -> datetime.datetime | None:
        with self._watched():
            return self._store.modified(key)

    def now(self) -> datetime.datetime:
        with self._watched():
            return self._store.now()

    def delete(self, key: str) -> bool:
        with self._watched():
            return self._store.delete(key)

    def drop_cache(self, key: str) -> None:
        with self._watched():
            self._store.drop_cache(key)

    def discard_unfinished(self, prefix: str) -> int:
        with self._watched():
            return self._store.discard_unfinished(prefix)

    def free_bytes(self) -> int | None:
        with self._watched():
            return self._store.free_bytes()


class WatchedUpload:
    """A backend.Upload on another one."""

    def __init__(self, upload: backend.Upload, store: WatchedBackend) -> None:
        """Have `store` know what becomes of an upload."""
        self._upload = upload
        self._store = store

    def append(self, buffers: Sequence[backend.Bytes]) -> None:
        self._told(lambda: self._upload.append(buffers))

    def finish(self) -> None:
        self._told(self._upload.finish)

    def discard(self) -> None:
        self._upload.discard()

    def _told(self, call: Callable[[], None]) -> None:
        try:
            call()
        except errors.Unavailable as error:
            self._store.missed(error)
            raise
