"""What an environment holds and depends on, added up: its volumes, its snapshots, the layers of the pool.

A layer is charged to every environment that depends on it: one with a volume, or with a snapshot that isn't archived,
on that layer or above it. It is exclusive if there is no other such environment, and shared otherwise. So what is
exclusive goes with the environment, and what is hidden is charged to those that keep it.
"""

import dataclasses
import sqlite3
from typing import Final

from snapd import model

_MINE: Final = """
WITH RECURSIVE
mine (uid) AS (
    SELECT head_layer FROM volumes WHERE environment_uid = :environment AND head_layer IS NOT NULL
    UNION
    SELECT p.layer FROM snapshots s JOIN points p ON p.uid = s.point
    WHERE s.environment_uid = :environment AND s.archive_state != 'ARCHIVED' AND p.layer IS NOT NULL
    UNION
    SELECT l.parent FROM mine m JOIN layers l ON l.uid = m.uid WHERE l.parent IS NOT NULL
),
near (uid) AS (
    SELECT uid FROM mine
    UNION
    SELECT l.uid FROM near n JOIN layers l ON l.parent = n.uid
),
others (uid) AS (
    SELECT n.uid FROM near n JOIN volumes v ON v.head_layer = n.uid WHERE v.environment_uid != :environment
    UNION
    SELECT n.uid FROM near n JOIN points p ON p.layer = n.uid JOIN snapshots s ON s.point = p.uid
    WHERE s.environment_uid != :environment AND s.archive_state != 'ARCHIVED'
    UNION
    SELECT l.parent FROM others o JOIN layers l ON l.uid = o.uid WHERE l.parent IS NOT NULL
)
SELECT m.uid AS uid, m.uid IN (SELECT uid FROM others) AS shared FROM mine m
"""
_VOLUMES: Final = "SELECT count(*), coalesce(sum(size_bytes), 0) FROM volumes WHERE environment_uid = ?"
_SNAPSHOTS: Final = """
SELECT count(*) AS snapshots, count(*) FILTER (WHERE archive_state = 'ARCHIVED') AS archived,
       coalesce(sum(size_bytes) FILTER (WHERE archive_state = 'ARCHIVED'), 0) AS logical,
       coalesce(sum(archive_changed_bytes), 0) AS changed, coalesce(sum(archive_read_bytes), 0) AS "read",
       coalesce(sum(archive_zero_bytes), 0) AS zero, coalesce(sum(archive_deduplicated_bytes), 0) AS deduplicated,
       coalesce(sum(archive_new_bytes), 0) AS new
FROM snapshots WHERE environment_uid = ?
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What an environment holds."""

    volumes: int
    provisioned_bytes: int
    """The sizes of all volumes, as their guests see them."""
    snapshots: int
    archived: int
    """How many of the snapshots are archived."""
    logical_bytes: int
    """The sizes of the archived snapshots: what they would take as plain copies."""
    figures: model.ArchiveFigures
    """Of all archived snapshots together."""


def contents(connection: sqlite3.Connection, environment_uid: str) -> Contents:
    """Return what an environment holds."""
    volumes, provisioned_bytes = connection.execute(_VOLUMES, (environment_uid,)).fetchone()
    row = connection.execute(_SNAPSHOTS, (environment_uid,)).fetchone()
    return Contents(
        volumes=volumes,
        provisioned_bytes=provisioned_bytes,
        snapshots=row["snapshots"],
        archived=row["archived"],
        logical_bytes=row["logical"],
        figures=model.ArchiveFigures(
            changed=row["changed"],
            read=row["read"],
            zero=row["zero"],
            deduplicated=row["deduplicated"],
            new=row["new"],
        ),
    )


def layers(connection: sqlite3.Connection, environment_uid: str) -> dict[str, bool]:
    """Return the layers that an environment depends on, by uid, and whether another one does too."""
    rows = connection.execute(_MINE, {"environment": environment_uid})
    return {row["uid"]: bool(row["shared"]) for row in rows}
