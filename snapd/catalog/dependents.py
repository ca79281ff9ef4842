"""Who depends on a layer: the volumes that read through it, and the snapshots that are nowhere else."""

import sqlite3

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
