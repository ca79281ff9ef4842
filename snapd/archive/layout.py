"""The keys of the archive's objects (docs/archive-format.md, "Objects"). Pure."""

import dataclasses
import re
from typing import Final

from snapd import errors

REPOSITORY: Final = "repository.json"
HOSTS: Final = "hosts/"
PACK_ID_LENGTH: Final = 16
LARGEST_EPOCH: Final = (1 << 32) - 1

_ELEMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_NUMBER: Final = re.compile(r"[0-9a-f]{8}")
_SEAL: Final = ".seal"


def checked(field: str, value: str) -> str:
    """Return value if it can be an element of a key, else raise errors.InvalidField for field."""
    if not _ELEMENT.fullmatch(value):
        raise errors.InvalidField(field=field, problem=f"{value!r} doesn't match {_ELEMENT.pattern}")
    return value


def is_element(value: str) -> bool:
    """Say whether value can be an element of a key; others are none of the archive's."""
    return _ELEMENT.fullmatch(value) is not None


def text(number: int) -> str:
    """Return how an epoch, or another number, is written in a key: 8 digits, so that names sort like numbers."""
    return f"{number:08x}"


def number(digits: str) -> int | None:
    """Return the number, at least 1, that was written as `text` does, or None if it is something else."""
    return (int(digits, 16) or None) if _NUMBER.fullmatch(digits) else None


def versioned(name: str) -> tuple[str, int] | None:
    """Return (name, number) of a last element that ends with a dot and a number, or None."""
    front, _, digits = name.rpartition(".")
    found = number(digits)
    return None if found is None or not is_element(front) else (front, found)


def numbered(name: str) -> tuple[int, int] | None:
    """Return the epoch and the number of a last element that consists of these, or None."""
    front, _, digits = name.rpartition(".")
    epoch, found = number(front), number(digits)
    return None if epoch is None or found is None else (epoch, found)


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """What one host owns."""

    name: str

    def __post_init__(self) -> None:
        checked("host", self.name)

    @property
    def prefix(self) -> str:
        """What all its keys begin with."""
        return f"{HOSTS}{self.name}/"

    @property
    def epochs(self) -> str:
        """What the keys of claims and seals begin with."""
        return f"{self.prefix}epochs/"

    def claim(self, epoch: int) -> str:
        """Return the key of a claim."""
        return self.epochs + text(epoch)

    def seal(self, epoch: int) -> str:
        """Return the key of what a claim's maker adopted."""
        return self.epochs + text(epoch) + _SEAL

    @property
    def renewals(self) -> str:
        """What the keys of signs of life begin with."""
        return f"{self.prefix}renewals/"

    def renewal(self, epoch: int, count: int) -> str:
        """Return the key of a sign of life."""
        return f"{self.renewals}{text(epoch)}.{text(count)}"

    @property
    def leases(self) -> str:
        """What the keys of its read leases on other hosts' environments begin with."""
        return f"{self.prefix}leases/"

    @property
    def environments(self) -> str:
        """What all keys of its environments begin with."""
        return f"{self.prefix}environments/"


def claims_and_seals(host: Host, keys: list[str]) -> tuple[set[int], set[int]]:
    """Return the epochs that are claimed and those that are sealed, from a listing of `host.epochs`."""
    names = [key.removeprefix(host.epochs) for key in keys]
    claimed = {found for name in names if (found := number(name)) is not None}
    sealed = {
        found for name in names if name.endswith(_SEAL) and (found := number(name.removesuffix(_SEAL))) is not None
    }
    return claimed, sealed


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
        """What all its keys begin with."""
        return f"{Host(self.host).environments}{self.environment_uid}/"

    @property
    def records(self) -> str:
        """What the keys of the environment's records begin with, of each epoch one."""
        return f"{self.prefix}keys/"

    def record(self, epoch: int) -> str:
        """Return the key of the environment's record."""
        return self.records + text(epoch)

    @property
    def packs(self) -> str:
        """What the keys of packs begin with."""
        return f"{self.prefix}packs/"

    @property
    def manifests(self) -> str:
        """What the keys of manifests begin with."""
        return f"{self.prefix}manifests/"

    @property
    def moves(self) -> str:
        """What the keys of moves begin with."""
        return f"{self.prefix}moves/"

    @property
    def tombstones(self) -> str:
        """What the keys of tombstones begin with."""
        return f"{self.prefix}tombstones/"

    def pack(self, pack_id: bytes) -> str:
        """Return the key of a pack."""
        return f"{self.packs}{pack_id[:1].hex()}/{pack_id.hex()}"

    def manifest(self, snapshot_uid: str, epoch: int) -> str:
        """Return the key of a snapshot's manifest."""
        return f"{self.manifests}{checked('snapshot_uid', snapshot_uid)}.{text(epoch)}"

    def move(self, epoch: int, count: int) -> str:
        """Return the key of moves."""
        return f"{self.moves}{text(epoch)}.{text(count)}"

    def tombstone(self, epoch: int, name: str) -> str:
        """Return the key of a tombstone."""
        return f"{self.tombstones}{text(epoch)}.{name}"


def pack_id(key: str) -> bytes | None:
    """Return the id of the pack that key names, or None if it names something else."""
    try:
        found = bytes.fromhex(key.rpartition("/")[2])
    except ValueError:
        return None
    return found if len(found) == PACK_ID_LENGTH else None
