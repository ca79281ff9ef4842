"""An environment's record in the archive, with the key that names its content (docs/archive-format.md, "Documents").

Each epoch has a record of its own, which an adopter copies: a late request of its predecessor may delete the old one.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Final

from snapd import errors
from snapd.archive import documents, layout, names, sealing
from snapd.archive.backends import backend

_VERSION: Final = 1
_UNWRAPPED: Final = "none"
_WRAPPED: Final = sealing.CIPHER
_seal: Final = functools.partial(names.plain, names.Kind.ENVIRONMENT)


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """One environment on one host, and its keys."""

    area: layout.Area
    key: bytes = dataclasses.field(repr=False)
    """What its blobs are named with."""
    keyring: sealing.Keyring | None = dataclasses.field(compare=False)
    """What its blobs and manifests are encrypted with, if the archive is."""

    def hash_manifest(self, body: bytes) -> bytes:
        """Return the checksum of a manifest's bytes; only who has the key can make it."""
        return names.keyed(self.key, names.Kind.MANIFEST, body)


def load(store: backend.Backend, area: layout.Area, epoch: int, keyring: sealing.Keyring | None) -> Environment:
    """Return an environment. Raises errors.NotFound, errors.Corrupt, errors.SchemaTooNew, errors.ArchiveKeyMissing."""
    what = _what(area)
    wrapped = _members(store, area, epoch)["key"]
    data = documents.base64_bytes(what, wrapped.get("bytes"))
    if wrapped.get("wrapping") == _WRAPPED:
        if keyring is None:
            raise errors.ArchiveKeyMissing(what=what, key=data[: sealing.KEY_ID_LENGTH].hex())
        data = keyring.open_document(what, _wrapping_context(area), data)
    else:
        documents.expect(what, wrapped, wrapping=_UNWRAPPED)
        if keyring is not None:
            # Or else whoever can write to the store could have us seal under a name key of theirs.
            raise errors.Corrupt(what=what, problem="its key isn't encrypted, but the archive is")
    if len(data) != names.LENGTH:
        raise errors.Corrupt(what=what, problem=f"its key has {len(data)} bytes")
    return Environment(area, data, keyring)


def create(
    store: backend.Backend,
    area: layout.Area,
    epoch: int,
    keyring: sealing.Keyring | None,
    is_in_use: Callable[[], bool],
) -> Environment:
    """Return an environment, made with a new key if it isn't there. `is_in_use` says if it has believed manifests.

    Raises errors.Corrupt if its record is gone while they are there: a new key would hide that they can't be read.
    What a stale owner left there is no reason: nobody believes it.
    """
    try:
        return load(store, area, epoch, keyring)
    except errors.NotFound:
        pass
    if is_in_use():
        raise errors.Corrupt(what=_what(area), problem="it is gone, manifests are there")
    key = names.new_key()
    if keyring is None:
        wrapped = {"wrapping": _UNWRAPPED, "bytes": documents.base64_text(key)}
    else:
        sealed = keyring.seal_document(_wrapping_context(area), key)
        wrapped = {"wrapping": _WRAPPED, "bytes": documents.base64_text(sealed)}
    _publish(store, area, epoch, wrapped)
    return load(store, area, epoch, keyring)


def adopt(store: backend.Backend, area: layout.Area, before: int, epoch: int) -> None:
    """Make the record of a new epoch out of an older one's. May be repeated; needs no key."""
    _publish(store, area, epoch, _members(store, area, before)["key"])


def _publish(store: backend.Backend, area: layout.Area, epoch: int, wrapped: documents.Json) -> None:
    members = {
        "version": _VERSION,
        "environment_uid": area.environment_uid,
        "host": area.host,
        "epoch": epoch,
        "key": wrapped,
    }
    # If it is there, an earlier try of the same owner made it: it is as good, and the only one.
    with contextlib.suppress(errors.AlreadyExists):
        store.put(area.record(epoch), [documents.encode(members, _seal)])


def _members(store: backend.Backend, area: layout.Area, epoch: int) -> dict[str, documents.Json]:
    what = _what(area)
    members = documents.decode(what, documents.fetch(store, area.record(epoch), what), _seal, _VERSION)
    documents.expect(what, members, environment_uid=area.environment_uid, host=area.host, epoch=epoch)
    if not isinstance(members.get("key"), dict):
        raise errors.Corrupt(what=what, problem="it has no key")
    return members


def _what(area: layout.Area) -> str:
    return f"environment record {area.environment_uid}"


def _wrapping_context(area: layout.Area) -> str:
    """Return what a wrapped key belongs to: no epoch, for adopters without the key copy it as it is."""
    return area.records
