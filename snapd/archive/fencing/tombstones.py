"""Removal that a stale owner can't spoil: what is to go is named in a tombstone before anything goes.

The order is what matters (docs/archive-sharing.md, "Removing"). Knows keys, and not what lies under them.
"""

import functools
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from snapd import errors, fsops
from snapd.archive import documents, layout, names
from snapd.archive.backends import backend
from snapd.archive.fencing import claim as claims

_VERSION: Final = 1
_NAME_LENGTH: Final = 8
_MOST_KEYS: Final = 100_000
"""Keys in one tombstone: 7 MB of text."""

_seal: Final = functools.partial(names.plain, names.Kind.TOMBSTONE)


def named(store: backend.Backend, area: layout.Area, since: int = 1) -> set[str]:
    """Return the keys that the tombstones of an environment, made by owners of epochs from `since` on, name.

    Raises errors.Corrupt, errors.ArchiveUnreachable.
    """
    found: set[str] = set()
    for key, epoch in _tombstones(store, area).items():
        if epoch >= since:
            found |= _read(store, area, key)
    return found


def remove(
    store: backend.Backend,
    claim: claims.Claim,
    area: layout.Area,
    keys: Sequence[str],
    is_read: Callable[[], bool],
) -> list[str] | None:
    """Delete objects of an environment and return those that were there; None if nothing goes, since it `is_read`.

    Raises errors.ArchiveClaimLost, errors.ArchiveUnreachable.
    """
    removed: list[str] = []
    for start in range(0, len(keys), _MOST_KEYS):
        batch = keys[start : start + _MOST_KEYS]
        tombstone = area.tombstone(claim.epoch, secrets.token_hex(_NAME_LENGTH))
        members = {"version": _VERSION, "keys": [key.removeprefix(area.prefix) for key in batch]}
        store.put(tombstone, [documents.encode(members, _seal)])
        fsops.point("archive.tombstone-written")
        blocked = is_read()
        claim.require()
        if blocked or is_read():
            store.delete(tombstone)
            return None
        for key in batch:
            if store.delete(key):
                removed.append(key)
            fsops.point("archive.removed")
        store.delete(tombstone)
    return removed


def clear(store: backend.Backend, area: layout.Area) -> None:
    """Remove the tombstones of what is gone. The caller has the claim, and removes nothing meanwhile."""
    for tombstone in _tombstones(store, area):
        if all(store.size(key) is None for key in _read(store, area, tombstone)):
            store.delete(tombstone)


def pack_ids(keys: Iterable[str]) -> set[bytes]:
    """Return the ids of the packs among some keys."""
    return {found for key in keys if (found := layout.pack_id(key)) is not None}


def _tombstones(store: backend.Backend, area: layout.Area) -> dict[str, int]:
    """Return the keys of an environment's tombstones, with the epochs of their makers."""
    parts = ((key, key.removeprefix(area.tombstones).partition(".")[0]) for key, _ in store.list(area.tombstones))
    return {key: epoch for key, digits in parts if (epoch := layout.number(digits)) is not None}


def _read(store: backend.Backend, area: layout.Area, key: str) -> set[str]:
    what = f"tombstone {key.removeprefix(area.tombstones)}"
    try:
        data = documents.fetch(store, key, what)
    except errors.NotFound:
        # What it named is gone by now.
        return set()
    keys = documents.decode(what, data, _seal, _VERSION).get("keys")
    if not isinstance(keys, list) or not all(isinstance(name, str) for name in keys):
        raise errors.Corrupt(what=what, problem="it names no keys")
    return {area.prefix + name for name in keys}
