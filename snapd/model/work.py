"""What is being done: operations, the intents behind them, and the background work."""

import dataclasses
import datetime
import enum
from collections.abc import Mapping

from snapd.model.resources import Problem


@dataclasses.dataclass(frozen=True, slots=True)
class Intent:
    """A multi-step change that was begun: what recovery needs to finish or undo it."""

    number: int
    kind: str
    subject: str
    """Uid of the resource that is changed."""
    operation: str
    """Uid of the operation that tells its caller of it, or ''."""
    payload: Mapping[str, str]
    created: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """What a caller can watch of accepted work."""

    uid: str
    environment_uid: str
    environment: str
    id: str
    method: str
    """The RPC that began it, as 'CreateVolume'."""
    target: str
    """Resource name of what it works on."""
    target_uid: str
    done: bool
    error: Problem | None
    created: datetime.datetime
    ended: datetime.datetime | None
    result: Mapping[str, int | bool | list[str]] | None = None
    """What it answers besides its target, by the names of the API's fields."""
    stage: str = ""
    """Progress of running work, filled in from memory and never stored."""
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_second: int = 0
    estimated_end: datetime.datetime | None = None
    attempt: int = 1


class Worker(enum.StrEnum):
    """A part of the background work that can be paused."""

    ARCHIVER = "ARCHIVER"
    """Carries snapshots to the archive."""
    KEEPER = "KEEPER"
    """Merges layers and collects archive garbage."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """Somebody's wish that background work be held."""

    reason: str
    paused_by: str
    """The identity that asked for it."""
    since: datetime.datetime
    until: datetime.datetime | None
    """When it ends by itself; None: when somebody ends it."""
