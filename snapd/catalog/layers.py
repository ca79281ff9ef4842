"""The table of layers: the forest of files, and which of them nothing needs any more."""

import datetime
import sqlite3

from snapd import model
from snapd.catalog import db, points

# A frozen layer is needed while a layer stands on it, it is lent as a snapshot's, or its point is the point of a
# snapshot that isn't archived.
_NEEDED = """
SELECT EXISTS (SELECT 1 FROM layers WHERE parent = :uid AND state != 'DOOMED')
    OR EXISTS (SELECT 1 FROM volumes WHERE head_layer = :uid)
    OR EXISTS (SELECT 1 FROM attachments WHERE top = :uid)
    OR EXISTS (SELECT 1 FROM points p JOIN snapshots s ON s.point = p.uid
               WHERE p.layer = :uid AND s.archive_state != 'ARCHIVED')
"""

# A frozen layer on which exactly one frozen layer stands, and which nothing else needs: it can be folded, unless a fold
# that has yet to be finished will put it on another layer.
_FOLDABLE = """
SELECT lower.uid AS lower, child.uid AS child FROM layers lower JOIN layers child ON child.parent = lower.uid
WHERE lower.uid = :uid AND lower.state = 'FROZEN' AND child.state = 'FROZEN'
  AND NOT EXISTS (SELECT 1 FROM layers below WHERE below.uid = lower.parent AND below.state = 'FOLDING')
  AND 1 = (SELECT count(*) FROM layers WHERE parent = lower.uid)
  AND NOT EXISTS (SELECT 1 FROM attachments WHERE top = lower.uid)
  AND NOT EXISTS (SELECT 1 FROM points p JOIN snapshots s ON s.point = p.uid
                  WHERE p.layer = lower.uid AND s.archive_state != 'ARCHIVED')
"""

_TO_ARCHIVE = """
WITH RECURSIVE unarchived (uid) AS (
    VALUES (:uid)
    UNION ALL
    SELECT l.parent FROM unarchived u JOIN layers l ON l.uid = u.uid
    WHERE l.parent IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM points p JOIN snapshots s ON s.point = p.uid
                      WHERE p.layer = l.parent AND s.environment_uid = :environment
                        AND (s.archive_state = 'ARCHIVED' OR s.archive_next_us <= :by_us)))
SELECT uid FROM unarchived
"""


def _convert(row: sqlite3.Row) -> model.Layer:
    return model.Layer(
        uid=row["uid"],
        parent=row["parent"],
        size_bytes=row["size_bytes"],
        state=model.LayerState(row["state"]),
        created=db.from_us(row["created_us"]),
    )


def insert(tx: db.Transaction, layer: model.Layer) -> None:
    """Insert a layer."""
    columns: dict[str, db.Value] = {
        "uid": layer.uid,
        "parent": layer.parent,
        "size_bytes": layer.size_bytes,
        "state": layer.state,
        "created_us": db.to_us(layer.created),
    }
    tx.execute(f"INSERT INTO layers {db.placeholders(columns)}", columns)


def find(connection: sqlite3.Connection, uid: str) -> model.Layer | None:
    """Return a layer if it is there."""
    row = connection.execute("SELECT * FROM layers WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else _convert(row)


def every(connection: sqlite3.Connection) -> list[model.Layer]:
    """Return all layers."""
    return [_convert(row) for row in connection.execute("SELECT * FROM layers")]


def get(connection: sqlite3.Connection, uid: str) -> model.Layer:
    """Return a layer, which must be there."""
    layer = find(connection, uid)
    assert layer is not None
    return layer


def chain(connection: sqlite3.Connection, uid: str) -> list[model.Layer]:
    """Return a layer and everything that it stands on, from the top downwards."""
    rows = connection.execute(
        "WITH RECURSIVE below (uid, depth) AS (VALUES (:uid, 0)"
        " UNION ALL SELECT l.parent, depth + 1 FROM layers l JOIN below b ON l.uid = b.uid WHERE l.parent IS NOT NULL)"
        " SELECT l.* FROM below b JOIN layers l ON l.uid = b.uid ORDER BY b.depth",
        {"uid": uid},
    )
    return [_convert(row) for row in rows]


def to_archive(connection: sqlite3.Connection, uid: str, environment_uid: str, by: datetime.datetime) -> list[str]:
    """Return the layers that an archive run of a frozen layer's point will read, begun at a moment, as far as is known.

    These are the layer and those below it, down to one whose point has a snapshot of the same environment that is
    archived, or will be by then.
    """
    rows = connection.execute(_TO_ARCHIVE, {"uid": uid, "environment": environment_uid, "by_us": db.to_us(by)})
    return [row["uid"] for row in rows]


def in_state(connection: sqlite3.Connection, state: model.LayerState) -> list[model.Layer]:
    """Return the layers in a state."""
    return [_convert(row) for row in connection.execute("SELECT * FROM layers WHERE state = ?", (state,))]


def uids(connection: sqlite3.Connection) -> set[str]:
    """Return the uids of all layers."""
    return {row["uid"] for row in connection.execute("SELECT uid FROM layers")}


def set_state(tx: db.Transaction, uid: str, state: model.LayerState) -> None:
    """Move a layer to another state of its life."""
    tx.execute("UPDATE layers SET state = ? WHERE uid = ?", (state, uid))


def set_parent(tx: db.Transaction, uid: str, parent: str | None) -> None:
    """Have a layer stand on another one."""
    tx.execute("UPDATE layers SET parent = ? WHERE uid = ?", (parent, uid))


def doom_unneeded(tx: db.Transaction, uid: str | None) -> str | None:
    """Doom a layer if nothing needs it, then what it stood on, and so on; return the first that stays, if any.

    A layer in CREATING or FOLDING belongs to an open intent and ends the walk.
    """
    while uid is not None:
        layer = get(tx.connection, uid)
        if layer.state not in (model.LayerState.FROZEN, model.LayerState.HEAD):
            break
        (needed,) = tx.execute(_NEEDED, {"uid": uid}).fetchone()
        if needed:
            break
        doom(tx, uid)
        uid = layer.parent
    return uid


def doom(tx: db.Transaction, uid: str) -> None:
    """Mark a layer for removal and take it from its point, which is forgotten if that was all that it had."""
    tx.execute("UPDATE layers SET state = 'DOOMED' WHERE uid = ?", (uid,))
    row = tx.execute("UPDATE points SET layer = NULL WHERE layer = ? RETURNING uid", (uid,)).fetchone()
    if row is not None:
        points.forget_unused(tx, row["uid"])


def remove(tx: db.Transaction, uid: str) -> bool:
    """Forget a doomed layer whose file is gone; False while a row still refers to it."""
    cursor = tx.execute(
        "DELETE FROM layers WHERE uid = :uid AND state = 'DOOMED'"
        " AND NOT EXISTS (SELECT 1 FROM layers c WHERE c.parent = :uid)",
        {"uid": uid},
    )
    return cursor.rowcount > 0


def foldable(connection: sqlite3.Connection, uid: str) -> tuple[str, str] | None:
    """Return (lower, child) if the frozen layer `uid` can be folded with the only one that stands on it."""
    row = connection.execute(_FOLDABLE, {"uid": uid}).fetchone()
    return None if row is None else (row["lower"], row["child"])


def frozen_uids(connection: sqlite3.Connection) -> list[str]:
    """Return the uids of all frozen layers, for the keeper's rounds."""
    return [row["uid"] for row in connection.execute("SELECT uid FROM layers WHERE state = 'FROZEN'")]


def children(connection: sqlite3.Connection, uid: str) -> list[model.Layer]:
    """Return the layers that stand on a layer and are not doomed."""
    rows = connection.execute("SELECT * FROM layers WHERE parent = ? AND state != 'DOOMED'", (uid,))
    return [_convert(row) for row in rows]


def is_only_under(connection: sqlite3.Connection, uid: str, within: str) -> bool:
    """Say whether a layer would go if the layer `within`, at or above it in its chain, went.

    That is so if at most one layer stands on it (none, on `within` itself) and no snapshot but that of `within` needs
    it.
    """
    row = connection.execute(
        "SELECT (SELECT count(*) FROM layers WHERE parent = :uid AND state != 'DOOMED') <= (:uid != :within)"
        " AND (:uid = :within OR NOT EXISTS (SELECT 1 FROM points p JOIN snapshots s ON s.point = p.uid"
        " WHERE p.layer = :uid AND s.archive_state != 'ARCHIVED'))",
        {"uid": uid, "within": within},
    ).fetchone()
    return bool(row[0])
