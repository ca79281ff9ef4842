"""Resource names as they come over the wire, checked and taken apart into ids."""

import re

ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
UID = re.compile(r"[0-9a-z]([0-9a-z-]{0,61}[0-9a-z])?")
"""A uid, or the name of a host."""
ANY_ENVIRONMENT = "environments/-"
"""The parent of a listing that goes through all environments."""

ENVIRONMENT = "environments/{environment}"
VOLUME = "environments/{environment}/volumes/{volume}"
SNAPSHOT = "environments/{environment}/snapshots/{snapshot}"
ARCHIVE_HOST = "hosts/{host}"
ARCHIVED_SNAPSHOT = "hosts/{host}/environments/{uid}/snapshots/{uid}"
OPERATION = "environments/{environment}/operations/{operation}"


def matches(pattern: str, name: str) -> bool:
    """Tell whether a name is one of a pattern, one of the constants above."""
    wanted, parts = pattern.split("/"), name.split("/")
    return len(parts) == len(wanted) and all(
        (UID if want in ("{uid}", "{host}") else ID).fullmatch(part) if want.startswith("{") else part == want
        for want, part in zip(wanted, parts, strict=True)
    )


def environment_id(name: str) -> str:
    """Return the environment's id in a name that was checked, '-' included."""
    return name.split("/")[1]


def last_id(name: str) -> str:
    """Return the last id in a name that was checked, or '' for an empty name."""
    return name.rpartition("/")[2]


def ids(name: str) -> tuple[str, str]:
    """Return the environment's id and the last id in a name that was checked."""
    return environment_id(name), last_id(name)
