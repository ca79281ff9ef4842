"""Who depends on a layer: the volumes that read through it, and the snapshots that are nowhere else."""

import sqlite3

_BESIDE = """
WITH RECURSIVE beside (uid) AS (
    SELECT uid FROM layers WHERE parent = :uid AND uid IS NOT :above AND state != 'DOOMED'
    UNION SELECT l.uid FROM layers l JOIN beside b ON l.parent = b.uid WHERE l.state != 'DOOMED')
SELECT v.id, v.environment_uid FROM beside b JOIN volumes v ON v.head_layer = b.uid ORDER BY v.created_us, v.uid
"""
_ABOVE = """
WITH RECURSIVE above (uid) AS (
    VALUES (:uid) UNION SELECT l.uid FROM layers l JOIN above a ON l.parent = a.uid WHERE l.state != 'DOOMED')
"""


def volumes(connection: sqlite3.Connection, layer: str) -> list[str]:
    """Return the uids of the volumes that can't be read whole without a layer."""
    rows = connection.execute(
        f"{_ABOVE} SELECT v.uid FROM above a JOIN volumes v ON v.head_layer = a.uid", {"uid": layer}
    )
    return [row["uid"] for row in rows]


def snapshots(connection: sqlite3.Connection, layer: str) -> list[str]:
    """Return the uids of the snapshots that aren't archived and can't be read whole without a layer."""
    rows = connection.execute(
        f"{_ABOVE} SELECT s.uid FROM above a JOIN points p ON p.layer = a.uid JOIN snapshots s ON s.point = p.uid"
        " WHERE s.archive_state != 'ARCHIVED'",
        {"uid": layer},
    )
    return [row["uid"] for row in rows]


def volumes_beside(
    connection: sqlite3.Connection, layer: str, above: str | None, environment_uid: str
) -> tuple[list[str], int]:
    """Return who stands on a layer otherwise than by the layer `above`: an environment's volumes, and how many in all.

    Volumes are named by their ids, the oldest first.
    """
    rows = connection.execute(_BESIDE, {"uid": layer, "above": above}).fetchall()
    return [row["id"] for row in rows if row["environment_uid"] == environment_uid], len(rows)


def snapshots_of(connection: sqlite3.Connection, layer: str, environment_uid: str) -> list[str]:
    """Return the ids of an environment's snapshots whose contents a layer is the top of, the oldest first."""
    rows = connection.execute(
        "SELECT s.id FROM points p JOIN snapshots s ON s.point = p.uid WHERE p.layer = ? AND s.environment_uid = ?"
        " ORDER BY s.captured_us, s.uid",
        (layer, environment_uid),
    )
    return [row["id"] for row in rows]
