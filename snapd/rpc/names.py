"""Resource names as they come over the wire, taken apart into ids. Knows no resource but by its pattern."""

import re

ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
ANY = "-"
"""Stands for all environments in a listing's parent."""

_PATTERNS = {
    "environment": "environments/{environment}",
    "volume": "environments/{environment}/volumes/{volume}",
    "snapshot": "environments/{environment}/snapshots/{snapshot}",
    "operation": "environments/{environment}/operations/{operation}",
}


def pattern(kind: str) -> str:
    """Return the pattern of a kind of resource, for people."""
    return _PATTERNS[kind]


def environment(environment_id: str) -> str:
    """Return an environment's name."""
    return f"environments/{environment_id}"


def volume(environment_id: str, volume_id: str) -> str:
    """Return a volume's name."""
    return f"environments/{environment_id}/volumes/{volume_id}"


def snapshot(environment_id: str, snapshot_id: str) -> str:
    """Return a snapshot's name."""
    return f"environments/{environment_id}/snapshots/{snapshot_id}"


def operation(environment_id: str, operation_id: str) -> str:
    """Return an operation's name."""
    return f"environments/{environment_id}/operations/{operation_id}"


def is_name(kind: str, name: str) -> bool:
    """Tell whether a name is one of that kind of resource."""
    parts = name.split("/")
    wanted = _PATTERNS[kind].split("/")
    return len(parts) == len(wanted) and all(
        ID.fullmatch(part) if want.startswith("{") else part == want for part, want in zip(parts, wanted, strict=True)
    )


def environment_of(name: str) -> str:
    """Return the environment's id in a name that was checked."""
    return name.split("/")[1]


def id_of(name: str) -> str:
    """Return the last id in a name that was checked."""
    return name.rsplit("/", 1)[1]


def split(name: str) -> tuple[str, str]:
    """Return the environment's id and the last id of a name that was checked."""
    return environment_of(name), id_of(name)
