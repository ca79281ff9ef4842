"""An environment's record in the archive, with the key that names its content (docs/archive-format.md, "Documents")."""

import contextlib
import dataclasses
import functools
from typing import Final

from snapd import errors
from snapd.archive import documents, layout, names
from snapd.archive.backends import backend

_VERSION: Final = 1
_seal: Final = functools.partial(names.plain, names.Kind.ENVIRONMENT)


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """One environment on one host, and its key."""

    area: layout.Area
    key: bytes = dataclasses.field(repr=False)

    def seal_manifest(self, body: bytes) -> bytes:
        """Return the checksum of a manifest's bytes; only who has the key can make it."""
        return names.keyed(self.key, names.Kind.MANIFEST, body)


def load(store: backend.Backend, area: layout.Area) -> Environment:
    """Return an environment. Raises errors.NotFound, errors.Corrupt, errors.SchemaTooNew."""
    what = f"environment record {area.environment_uid}"
    members = documents.decode(what, documents.fetch(store, area.record, what), _seal, _VERSION)
    documents.expect(what, members, environment_uid=area.environment_uid, host=area.host)
    wrapped = members.get("key")
    if not isinstance(wrapped, dict):
        raise errors.Corrupt(what=what, problem="it has no key")
    documents.expect(what, wrapped, wrapping="none")
    return Environment(area, documents.hexadecimal(what, wrapped.get("bytes"), names.LENGTH))


def create(store: backend.Backend, area: layout.Area) -> Environment:
    """Return an environment, made with a new key if it isn't there.

    Raises errors.Corrupt if its record is gone while manifests are there: a new key would hide that they can't be read.
    """
    try:
        return load(store, area)
    except errors.NotFound:
        pass
    if any(True for _ in store.list(area.manifests)):
        raise errors.Corrupt(
            what=f"environment record {area.environment_uid}", problem="it is gone, manifests are there"
        )
    members = {
        "version": _VERSION,
        "environment_uid": area.environment_uid,
        "host": area.host,
        "epoch": 0,
        "key": {"wrapping": "none", "bytes": names.new_key().hex()},
    }
    # If somebody makes it in between, theirs is as good, and the only one.
    with contextlib.suppress(errors.AlreadyExists):
        store.put(area.record, [documents.encode(members, _seal)])
    return load(store, area)
