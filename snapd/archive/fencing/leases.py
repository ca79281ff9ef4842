"""Read leases: who reads another host's environment says so, in its own prefix, before it reads.

The owner of what is read looks for them before it deletes packs (docs/archive-sharing.md, "Removing").
"""

import datetime
import functools
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from snapd import errors
from snapd.archive import documents, layout, names
from snapd.archive.backends import backend

LENGTH: Final = datetime.timedelta(days=1)
"""How long a lease counts, by the store's clock."""
_RENEWAL_S: Final = 3600.0

_VERSION: Final = 1
_NAME_LENGTH: Final = 16
_seal: Final = functools.partial(names.plain, names.Kind.LEASE)


class Lease:
    """A lease that this process has."""

    def __init__(
        self, store: backend.Backend, reader: layout.Host, area: layout.Area, epoch: int | None = None
    ) -> None:
        """Take it: it counts when this returns. `epoch` is that of the reader's claim, if it has one.

        Raises errors.ArchiveUnreachable, errors.StorageFull.
        """
        self._epoch = epoch
        self._store = store
        self._reader = reader
        self._area = area
        self._key = self._create()
        self._made = time.monotonic()

    def _create(self) -> str:
        key = self._reader.leases + secrets.token_hex(_NAME_LENGTH)
        members = {"version": _VERSION, "host": self._area.host, "environment_uid": self._area.environment_uid}
        if self._epoch is not None:
            members["epoch"] = self._epoch
        self._store.put(key, [documents.encode(members, _seal)])
        return key

    def renew_if_old(self) -> None:
        """Have it count anew if it has counted for an hour."""
        if time.monotonic() - self._made < _RENEWAL_S:
            return
        old, self._key = self._key, self._create()
        self._made = time.monotonic()
        self._store.delete(old)

    def give_back(self) -> None:
        """End it."""
        self._store.delete(self._key)


def is_read(store: backend.Backend, area: layout.Area) -> bool:
    """Say whether any host has a lease on an environment. Raises errors.Corrupt, errors.ArchiveUnreachable."""
    hosts = filter(layout.is_element, store.folders(layout.HOSTS))
    keys = [key for host in hosts for key, _ in store.list(layout.Host(host).leases)]
    if not keys:
        return False
    now = store.now()
    return any(_covers(store, key, area) and _is_fresh(store, key, now) for key in keys)


def sweep(store: backend.Backend, reader: layout.Host, epoch: int) -> None:
    """Remove a reader's leases that are over, and those that earlier processes with its claim left when they died.

    The caller has just taken the reader's claim of that epoch, and has no lease yet. Those of tools, which have no
    claim, are theirs.
    """
    keys = [key for key, _ in store.list(reader.leases)]
    if keys:
        now = store.now()
        for key in keys:
            if not _is_fresh(store, key, now) or _was_left(store, key, epoch):
                store.delete(key)


def _was_left(store: backend.Backend, key: str, epoch: int) -> bool:
    members = _read(store, key)
    left = None if members is None else members.get("epoch")
    return isinstance(left, int) and left <= epoch


def _read(store: backend.Backend, key: str) -> Mapping[str, Any] | None:
    """Return what a lease says, nothing if it is gone, or None if it can't be read."""
    what = f"lease {key.rpartition('/')[2]}"
    try:
        return documents.decode(what, documents.fetch(store, key, what), _seal, _VERSION)
    except errors.NotFound:
        return {}
    except (errors.Corrupt, errors.SchemaTooNew):
        return None


def _covers(store: backend.Backend, key: str, area: layout.Area) -> bool:
    members = _read(store, key)
    if members is None:
        # Somebody reads something: better to wait for it to be over than to guess that it is another environment.
        return True
    return members.get("host") == area.host and members.get("environment_uid") == area.environment_uid


def _is_fresh(store: backend.Backend, key: str, now: datetime.datetime) -> bool:
    made = store.modified(key)
    return made is not None and now - made < LENGTH
