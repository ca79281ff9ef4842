"""A store whose bytes move at a pace: another backend, with waits before it is read and written.

What isn't the bytes of objects (listings, sizes, deletions) isn't slowed. Whoever may give up in the middle brings a
`wait` that raises; then a read gives nothing, and an upload is to be discarded: what was appended isn't whole.
"""

import datetime
from collections.abc import Iterable, Iterator, Sequence

from snapd import pace as paces
from snapd.archive.backends import backend


class PacedBackend:
    """A backend.Backend on another one. Several may share a pace."""

    def __init__(self, store: backend.Backend, pace: paces.Pace, wait: paces.Wait) -> None:
        """Move the bytes of `store` at a pace, with `wait` as the way to wait."""
        self.settling = store.settling
        self._store = store
        self._pace = pace
        self._wait = wait

    def upload(self, key: str) -> "PacedUpload":
        return PacedUpload(self._store.upload(key), self)

    def put(self, key: str, chunks: Iterable[backend.Bytes]) -> None:
        self._store.put(key, (piece for chunk in chunks for piece in self.granted([chunk])))

    def granted(self, buffers: Sequence[backend.Bytes]) -> Iterator[memoryview]:
        """Yield the bytes of buffers in pieces, each when its turn has come."""
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            for start, length in self._pieces(len(view)):
                yield view[start : start + length]

    def _pieces(self, length: int) -> Iterator[tuple[int, int]]:
        """Yield start and length of the pieces of a range, each when its turn has come."""
        step = self._pace.piece_bytes or max(1, length)
        for start in range(0, length, step):
            piece = min(step, length - start)
            self._pace.take(piece, self._wait)
            yield start, piece

    def get(self, key: str) -> bytes:
        size_bytes = self._store.size(key)
        # One that isn't there is for the store to speak of.
        return self._store.get(key) if size_bytes is None else self.get_range(key, 0, size_bytes)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        pieces = [self._store.get_range(key, offset + start, piece) for start, piece in self._pieces(length)]
        return b"".join(pieces) if pieces else self._store.get_range(key, offset, length)

    def size(self, key: str) -> int | None:
        return self._store.size(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return self._store.list(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        return self._store.folders(prefix)

    def modified(self, key: str) -> datetime.datetime | None:
        return self._store.modified(key)

    def now(self) -> datetime.datetime:
        return self._store.now()

    def delete(self, key: str) -> bool:
        return self._store.delete(key)

    def drop_cache(self, key: str) -> None:
        self._store.drop_cache(key)

    def discard_unfinished(self, prefix: str) -> int:
        return self._store.discard_unfinished(prefix)

    def free_bytes(self) -> int | None:
        return self._store.free_bytes()


class PacedUpload:
    """A backend.Upload on another one."""

    def __init__(self, upload: backend.Upload, store: PacedBackend) -> None:
        """Append to upload when the store's pace allows."""
        self._upload = upload
        self._store = store

    def append(self, buffers: Sequence[backend.Bytes]) -> None:
        for piece in self._store.granted(buffers):
            self._upload.append([piece])

    def finish(self) -> None:
        self._upload.finish()

    def discard(self) -> None:
        self._upload.discard()
