"""The archiver's queue: which of the snapshots that wait is archived next. One rule, made of three.

**Within an environment** each snapshot has a *rank*, and the lowest goes first: the time at which it became due (or is
to be tried again), plus what its estimated bytes take at ASSUMED_RATE, ten minutes at most. So a large one is overtaken
by small ones that become due within the next minutes, and by nothing that becomes due later than that.

**Those that a caller waits for** (regular snapshots, and those that were asked to be archived now) go before those
that merely became due. The latter wait for PATIENCE at most: then they count as if somebody waited for them.

**Between environments** it goes round: of those that have something of the higher kind, the one that was served longest
ago is next, however much another one has waiting.

Nobody starves: ranks are fixed when something is queued, so only so many can come before it in its environment, and an
environment gets its turn after each other one had one at most.
"""

import dataclasses
import datetime
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from snapd import model, units
from snapd.catalog import db

ASSUMED_RATE: Final = 100 * units.MIB
"""Bytes per second that a run is assumed to read."""
LONGEST_HANDICAP: Final = datetime.timedelta(minutes=10)
PATIENCE: Final = datetime.timedelta(hours=1)
"""How long what merely became due gives way to what somebody waits for."""

FIRST_ENVIRONMENT: Final = "SELECT min(environment_uid) AS uid FROM snapshots WHERE archive_rank_us IS NOT NULL"
NEXT_ENVIRONMENT: Final = f"{FIRST_ENVIRONMENT} AND environment_uid > ?"
HEAD: Final = (
    "SELECT uid, environment_uid, archive_urgent, archive_rank_us FROM snapshots"
    " WHERE environment_uid = :environment AND archive_urgent = :urgent AND archive_rank_us <= :latest_us"
    " AND archive_next_us <= :now_us ORDER BY archive_rank_us LIMIT 1"
)
NEXT_TIME: Final = "SELECT min(archive_next_us) AS next_us FROM snapshots WHERE archive_next_us > ?"
DUE_COUNT: Final = "SELECT count(*) AS count FROM snapshots WHERE archive_next_us <= ?"
ANY_DUE: Final = "SELECT 1 FROM snapshots WHERE archive_next_us <= ? LIMIT 1"
TOO_FAR: Final = (
    "SELECT uid FROM snapshots WHERE archive_next_us IS NOT NULL AND (captured_us > :soon_us"
    " OR archive_next_us > :soon_us AND archive_error IS NULL AND (archive_urgent OR archive_next_us > archive_due_us)"
    " OR archive_next_us > :latest_us AND archive_error IS NOT NULL)"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """The first of an environment's due snapshots of one kind."""

    snapshot_uid: str
    environment_uid: str
    urgent: bool
    """A caller waits for it."""
    rank: datetime.datetime


def rank(archive: model.Archive) -> datetime.datetime | None:
    """Return the place of a snapshot in its environment's queue, or None if it isn't to be archived."""
    if archive.next_attempt is None:
        return None
    return archive.next_attempt + min(
        datetime.timedelta(seconds=archive.estimated_bytes / ASSUMED_RATE), LONGEST_HANDICAP
    )


def next_time(connection: sqlite3.Connection, now: datetime.datetime) -> datetime.datetime | None:
    """Return when the next snapshot becomes due that isn't yet, or None if none will."""
    row = connection.execute(NEXT_TIME, (db.to_us(now),)).fetchone()
    return db.optional_time(row["next_us"])


def too_far(connection: sqlite3.Connection, soon: datetime.datetime, latest: datetime.datetime) -> list[str]:
    """Return the uids of what waits for longer than anything was ever told to, since the clock was set back.

    What was captured, or was to be tried without a failure before it, is so by `soon`; what failed is tried again by
    `latest`. Looks at all that waits.
    """
    moments = {"soon_us": db.to_us(soon), "latest_us": db.to_us(latest)}
    return [row["uid"] for row in connection.execute(TOO_FAR, moments)]


def due_count(connection: sqlite3.Connection, now: datetime.datetime) -> int:
    """Return how many snapshots are due and wait."""
    return int(connection.execute(DUE_COUNT, (db.to_us(now),)).fetchone()["count"])


def heads(connection: sqlite3.Connection, now: datetime.datetime) -> list[Head]:
    """Return the first due snapshot of each kind of every environment that has one.

    Looks at each environment with something in its queue twice, and at what becomes due within the next minutes, but
    not at what else waits.
    """
    found: list[Head] = []
    now_us = db.to_us(now)
    if connection.execute(ANY_DUE, (now_us,)).fetchone() is None:
        return found
    latest_us = db.to_us(now + LONGEST_HANDICAP)
    environment = connection.execute(FIRST_ENVIRONMENT).fetchone()["uid"]
    while environment is not None:
        for urgent in (True, False):
            row = connection.execute(
                HEAD,
                {"environment": environment, "urgent": int(urgent), "latest_us": latest_us, "now_us": now_us},
            ).fetchone()
            if row is not None:
                found.append(Head(row["uid"], environment, urgent, db.from_us(row["archive_rank_us"])))
        environment = connection.execute(NEXT_ENVIRONMENT, (environment,)).fetchone()["uid"]
    return found


def choose(found: Iterable[Head], turns: Mapping[str, int], now: datetime.datetime) -> Head | None:
    """Return what is next, by the heads of the environments' queues, or None if there are none.

    turns says in which turn an environment was served last; those that never were are not in it.
    """

    def place(head: Head) -> datetime.datetime:
        return head.rank if head.urgent else head.rank + PATIENCE

    first: dict[str, Head] = {}
    for head in found:
        known = first.get(head.environment_uid)
        if known is None or place(head) < place(known):
            first[head.environment_uid] = head

    def order(head: Head) -> tuple[bool, int, datetime.datetime, str]:
        ordinary = not head.urgent and place(head) > now
        return ordinary, turns.get(head.environment_uid, -1), place(head), head.snapshot_uid

    return min(first.values(), key=order, default=None)
