"""The contract between the archive and a store of named, immutable objects.

Knows nothing of what the objects mean. Keys are '/'-separated; no element is empty or begins with a dot.

Errors that any call may raise: errors.ArchiveUnreachable when the store doesn't answer, errors.StorageFull when it
has no room left.
"""

import datetime
import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from snapd import errors

Bytes = bytes | bytearray | memoryview

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")


class Upload(Protocol):
    """An object that is being written and can't be seen yet. Used by one thread at a time."""

    def append(self, buffers: Sequence[Bytes]) -> None:
        """Add the buffers, one behind the other. They may be reused when it returns."""
        ...

    def finish(self) -> None:
        """Make the object durable under its key. Raises errors.AlreadyExists if the key is taken."""
        ...

    def discard(self) -> None:
        """Forget what was written. Harmless after either end."""
        ...


class Backend(Protocol):
    """A store. All methods may be called by many threads at once.

    What was created or deleted is seen by the next read and the next listing, from every host: fencing rests on that.
    """

    settling: datetime.timedelta
    """How long after its process has died a request may still take effect."""

    def upload(self, key: str) -> Upload:
        """Begin an object whose bytes come little by little."""
        ...

    def put(self, key: str, chunks: Iterable[Bytes]) -> None:
        """Create an object whole; it is durable on return. Raises errors.AlreadyExists if the key is taken."""
        ...

    def get(self, key: str) -> bytes:
        """Return an object's bytes. Raises errors.NotFound."""
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes. Raises errors.NotFound, or errors.Corrupt if the object ends before them."""
        ...

    def size(self, key: str) -> int | None:
        """Return an object's length in bytes, or None if there is none."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and length of each object whose key begins with prefix, in no particular order.

        One that is created or deleted meanwhile may or may not be among them.
        """
        ...

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield each different element that follows prefix, which ends with '/', in keys that go on behind it.

        In no particular order, and without looking at what lies deeper.
        """
        ...

    def modified(self, key: str) -> datetime.datetime | None:
        """Return when an object was created, by the store's clock, or None if there is none."""
        ...

    def now(self) -> datetime.datetime:
        """Return the time by the store's clock, in UTC: the one that `modified` goes by."""
        ...

    def delete(self, key: str) -> bool:
        """Remove an object durably; True if it was there."""
        ...

    def drop_cache(self, key: str) -> None:
        """Have the next read of an object come from the store itself, as far as that can be had."""
        ...

    def discard_unfinished(self, prefix: str) -> int:
        """Remove what interrupted uploads left under prefix, and say how many. Its owner calls it while none runs."""
        ...

    def free_bytes(self) -> int | None:
        """Return the room that is left, or None where there is no such figure."""
        ...


def check_key(key: str) -> str:
    """Return key if it is one, else raise errors.InvalidField."""
    if len(key) > 1024 or not _KEY.fullmatch(key):
        raise errors.InvalidField(field="key", problem=f"{key!r} is no object key")
    return key


@contextmanager
def translated(key: str) -> Iterator[None]:
    """Turn an OSError of the block into NotFound, StorageFull or ArchiveUnreachable for key."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.NotFound(resource_type="object", name=key) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.StorageFull(path=key) from error
        raise errors.ArchiveUnreachable(problem=f"{key}: {error.strerror or error}") from error
