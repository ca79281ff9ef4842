"""The keys of the archive's objects (docs/archive-format.md, "Objects"). Pure."""

import dataclasses
import re
from typing import Final

from snapd import errors

REPOSITORY: Final = "repository.json"
PACK_ID_LENGTH: Final = 16

_ELEMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def checked(field: str, value: str) -> str:
    """Return value if it can be an element of a key, else raise errors.InvalidField for field."""
    if not _ELEMENT.fullmatch(value):
        raise errors.InvalidField(field=field, problem=f"{value!r} doesn't match {_ELEMENT.pattern}")
    return value


def host_prefix(host: str) -> str:
    """Return what all keys that a host owns begin with."""
    return f"hosts/{checked('host', host)}/"


def environments_prefix(host: str) -> str:
    """Return what all keys of a host's environments begin with."""
    return f"{host_prefix(host)}environments/"


@dataclasses.dataclass(frozen=True, slots=True)
class Area:
    """One environment on one host: the domain of deduplication and of collection."""

    host: str
    environment_uid: str

    def __post_init__(self) -> None:
        checked("host", self.host)
        checked("environment_uid", self.environment_uid)

    @property
    def prefix(self) -> str:
        """What the keys of packs and manifests begin with."""
        return f"{environments_prefix(self.host)}{self.environment_uid}/"

    @property
    def record(self) -> str:
        """Key of the environment's record."""
        return f"{environments_prefix(self.host)}{self.environment_uid}.json"

    @property
    def packs(self) -> str:
        """What the keys of packs begin with."""
        return f"{self.prefix}packs/"

    @property
    def manifests(self) -> str:
        """What the keys of manifests begin with."""
        return f"{self.prefix}manifests/"

    def pack(self, pack_id: bytes) -> str:
        """Return the key of a pack."""
        return f"{self.packs}{pack_id[:1].hex()}/{pack_id.hex()}"

    def manifest(self, snapshot_uid: str) -> str:
        """Return the key of a snapshot's manifest."""
        return self.manifests + checked("snapshot_uid", snapshot_uid)


def pack_id(key: str) -> bytes | None:
    """Return the id of the pack that key names, or None if it names something else."""
    try:
        found = bytes.fromhex(key.rpartition("/")[2])
    except ValueError:
        return None
    return found if len(found) == PACK_ID_LENGTH else None
