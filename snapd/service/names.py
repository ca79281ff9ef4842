"""Names: of resources as callers see them, ids that are generated, and uids."""

import datetime
import secrets
import uuid

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
"""No characters that people mistake for each other."""
_LONGEST_VOLUME_PART = 41
"""Leaves room for the time and the tail in an id of 63 characters."""


def environment(environment_id: str) -> str:
    """Return an environment's resource name."""
    return f"environments/{environment_id}"


def volume(environment_id: str, volume_id: str) -> str:
    """Return a volume's resource name."""
    return f"environments/{environment_id}/volumes/{volume_id}"


def snapshot(environment_id: str, snapshot_id: str) -> str:
    """Return a snapshot's resource name."""
    return f"environments/{environment_id}/snapshots/{snapshot_id}"


def operation(environment_id: str, operation_id: str) -> str:
    """Return an operation's resource name."""
    return f"environments/{environment_id}/operations/{operation_id}"


def new_uid() -> str:
    """Return a new UUID4."""
    return str(uuid.uuid4())


def operation_id(uid: str) -> str:
    """Return the id of the operation with a uid."""
    return f"op-{uid}"


def _tail(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def generated_snapshot_id(volume_id: str, now: datetime.datetime) -> str:
    """Return an id for a snapshot that wasn't given one: which volume, when, and something random."""
    return f"{volume_id[:_LONGEST_VOLUME_PART]}-{now:%Y%m%dt%H%M%Sz}-{_tail(4)}"


def generated_volume_id() -> str:
    """Return an id for a volume that wasn't given one."""
    return f"volume-{_tail(10)}"
