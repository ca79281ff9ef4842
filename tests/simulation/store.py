"""The archive's store behind the weather: a folder that is away or slow now and then, and goes by simulated time."""

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence

from snapd.archive.backends import backend, directory
from tests.simulation import weather as weathers


class Store:
    """A backend.Backend on a folder. Objects' times outlive it in `times`."""

    def __init__(
        self,
        inner: directory.DirectoryBackend,
        weather: weathers.Weather,
        now: Callable[[], datetime.datetime],
        times: dict[str, datetime.datetime],
    ) -> None:
        self.settling = datetime.timedelta(0)
        self._inner = inner
        self._weather = weather
        self._now = now
        self._times = times

    def upload(self, key: str) -> "Upload":
        self._weather.call()
        self._times[key] = self._now()
        return Upload(self._inner.upload(key), self._weather)

    def put(self, key: str, chunks: Iterable[backend.Bytes]) -> None:
        self._weather.call()
        if self._inner.size(key) is None:
            self._times[key] = self._now()
        self._inner.put(key, chunks)

    def get(self, key: str) -> bytes:
        self._weather.call()
        return self._inner.get(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._weather.call()
        return self._inner.get_range(key, offset, length)

    def size(self, key: str) -> int | None:
        self._weather.call()
        return self._inner.size(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._weather.call()
        yield from self._inner.list(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        self._weather.call()
        yield from sorted(self._inner.folders(prefix))

    def modified(self, key: str) -> datetime.datetime | None:
        self._weather.call()
        if self._inner.size(key) is None:
            return None
        return self._times.setdefault(key, self._now())

    def now(self) -> datetime.datetime:
        self._weather.call()
        return self._now()

    def delete(self, key: str) -> bool:
        self._weather.call()
        return self._inner.delete(key)

    def drop_cache(self, key: str) -> None:
        self._inner.drop_cache(key)

    def discard_unfinished(self, prefix: str) -> int:
        self._weather.call()
        return self._inner.discard_unfinished(prefix)

    def free_bytes(self) -> int | None:
        return self._inner.free_bytes()


class Upload:
    """A backend.Upload that the weather may hit."""

    def __init__(self, inner: backend.Upload, weather: weathers.Weather) -> None:
        self._inner = inner
        self._weather = weather

    def append(self, buffers: Sequence[backend.Bytes]) -> None:
        self._weather.call()
        self._inner.append(buffers)

    def finish(self) -> None:
        self._weather.call()
        self._inner.finish()

    def discard(self) -> None:
        self._inner.discard()
