"""A store in memory, for tests and for measuring everything but the disk."""

import datetime
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from snapd import errors
from snapd.archive.backends import backend


class MemoryBackend:
    """A backend.Backend that forgets everything when the process ends."""

    def __init__(self, capacity_bytes: int | None = None, clock: Callable[[], datetime.datetime] | None = None) -> None:
        """Hold at most capacity_bytes, if given, and go by a clock."""
        self.settling = datetime.timedelta(0)
        self._capacity = capacity_bytes
        self._clock = clock or _utc
        self._lock = threading.Lock()
        self._objects: dict[str, bytes] = {}
        self._times: dict[str, datetime.datetime] = {}
        self._used = 0

    def upload(self, key: str) -> "MemoryUpload":
        return MemoryUpload(self, backend.check_key(key))

    def put(self, key: str, chunks: Iterable[backend.Bytes]) -> None:
        self.store(backend.check_key(key), b"".join(chunks))

    def store(self, key: str, data: bytes) -> None:
        """Create an object."""
        with self._lock:
            if key in self._objects:
                raise errors.AlreadyExists(resource_type="object", name=key)
            if self._capacity is not None and self._used + len(data) > self._capacity:
                raise errors.StorageFull(path=key)
            self._objects[key] = data
            self._times[key] = self._clock()
            self._used += len(data)

    def get(self, key: str) -> bytes:
        with self._lock:
            data = self._objects.get(key)
        if data is None:
            raise errors.NotFound(resource_type="object", name=key)
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        data = self.get(key)
        if offset > len(data) - length:
            raise errors.Corrupt(what=key, problem=f"it ends before byte {offset + length}")
        return data[offset : offset + length]

    def size(self, key: str) -> int | None:
        with self._lock:
            data = self._objects.get(key)
        return None if data is None else len(data)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._lock:
            found = [(key, len(data)) for key, data in self._objects.items() if key.startswith(prefix)]
        yield from found

    def folders(self, prefix: str) -> Iterator[str]:
        with self._lock:
            behind = [key.removeprefix(prefix) for key in self._objects if key.startswith(prefix)]
        yield from {rest.partition("/")[0] for rest in behind if "/" in rest}

    def modified(self, key: str) -> datetime.datetime | None:
        with self._lock:
            return self._times.get(key)

    def now(self) -> datetime.datetime:
        return self._clock()

    def delete(self, key: str) -> bool:
        with self._lock:
            data = self._objects.pop(key, None)
            self._times.pop(key, None)
            self._used -= len(data or b"")
        return data is not None

    def drop_cache(self, key: str) -> None:
        """There is nothing behind memory."""

    def discard_unfinished(self, prefix: str) -> int:  # noqa: ARG002 - unfinished uploads die with their owner
        return 0

    def free_bytes(self) -> int | None:
        with self._lock:
            return None if self._capacity is None else self._capacity - self._used


def _utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class MemoryUpload:
    """A backend.Upload into memory."""

    def __init__(self, store: MemoryBackend, key: str) -> None:
        """Will create key in store."""
        self._store = store
        self._key = key
        self._data = bytearray()

    def append(self, buffers: Sequence[backend.Bytes]) -> None:
        for buffer in buffers:
            self._data += buffer

    def finish(self) -> None:
        self._store.store(self._key, bytes(self._data))
        self._data.clear()

    def discard(self) -> None:
        self._data.clear()
