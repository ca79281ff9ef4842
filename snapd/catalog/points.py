"""The tables of points and of their deltas: the history of contents, whatever becomes of files."""

import json
import sqlite3
from collections.abc import Iterable, Sequence

from snapd import blockmap, model
from snapd.catalog import db


def _convert(row: sqlite3.Row) -> model.Point:
    return model.Point(
        uid=row["uid"],
        environment_uid=row["environment_uid"],
        parent=row["parent"],
        layer=row["layer"],
        size_bytes=row["size_bytes"],
        delta_recorded=bool(row["delta_recorded"]),
        created=db.from_us(row["created_us"]),
    )


def insert(tx: db.Transaction, point: model.Point) -> None:
    """Insert a point."""
    columns: dict[str, db.Value] = {
        "uid": point.uid,
        "environment_uid": point.environment_uid,
        "parent": point.parent,
        "layer": point.layer,
        "size_bytes": point.size_bytes,
        "delta_recorded": int(point.delta_recorded),
        "created_us": db.to_us(point.created),
    }
    tx.execute(f"INSERT INTO points {db.placeholders(columns)}", columns)


def find(connection: sqlite3.Connection, uid: str) -> model.Point | None:
    """Return a point if it is there."""
    row = connection.execute("SELECT * FROM points WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else _convert(row)


def every(connection: sqlite3.Connection) -> list[model.Point]:
    """Return all points."""
    return [_convert(row) for row in connection.execute("SELECT * FROM points")]


def uids(connection: sqlite3.Connection) -> set[str]:
    """Return the uids of all points."""
    return {row["uid"] for row in connection.execute("SELECT uid FROM points")}


def get(connection: sqlite3.Connection, uid: str) -> model.Point:
    """Return a point, which must be there: something that refers to it was read in the same transaction."""
    point = find(connection, uid)
    assert point is not None
    return point


def layer_of(connection: sqlite3.Connection, uid: str) -> str | None:
    """Return the frozen layer that shows a point's contents, None if there is none, or no such point any more."""
    point = find(connection, uid)
    return None if point is None else point.layer


def of_layer(connection: sqlite3.Connection, layer: str) -> model.Point | None:
    """Return the point that a frozen layer shows."""
    row = connection.execute("SELECT * FROM points WHERE layer = ?", (layer,)).fetchone()
    return None if row is None else _convert(row)


def set_layer(tx: db.Transaction, uid: str, layer: str | None) -> None:
    """Say which frozen layer shows a point's contents."""
    tx.execute("UPDATE points SET layer = ? WHERE uid = ?", (layer, uid))


def ancestors(connection: sqlite3.Connection, uid: str) -> list[model.Point]:
    """Return a point and those before it, the newest first."""
    rows = connection.execute(
        "WITH RECURSIVE before (uid, depth) AS (VALUES (:uid, 0)"
        " UNION ALL SELECT p.parent, depth + 1 FROM points p JOIN before b ON p.uid = b.uid WHERE p.parent IS NOT NULL)"
        " SELECT p.* FROM before b JOIN points p ON p.uid = b.uid ORDER BY b.depth",
        {"uid": uid},
    )
    return [_convert(row) for row in rows]


def record_delta(tx: db.Transaction, uid: str, windows: Iterable[tuple[int, bytes]]) -> None:
    """Store a point's delta, given as (start of the window, blockmap.encode_delta) of the windows that have any."""
    tx.execute("DELETE FROM point_deltas WHERE point = ?", (uid,))
    for start, delta in windows:
        tx.execute("INSERT INTO point_deltas (point, start, delta) VALUES (?, ?, ?)", (uid, start, delta))
    tx.execute("UPDATE points SET delta_recorded = 1 WHERE uid = ?", (uid,))


def delta(connection: sqlite3.Connection, uid: str, start: int) -> blockmap.BlockMap:
    """Return the recorded delta of one window (of blockmap.WINDOW bytes) of a point."""
    row = connection.execute("SELECT delta FROM point_deltas WHERE point = ? AND start = ?", (uid, start)).fetchone()
    return blockmap.empty() if row is None else blockmap.decode_delta(row["delta"])


def deltas(connection: sqlite3.Connection, uids: Sequence[str], start: int) -> list[blockmap.BlockMap]:
    """Return the recorded deltas of one window of several points, as they are at one instant, in any order."""
    rows = connection.execute(
        "SELECT delta FROM point_deltas WHERE start = ? AND point IN (SELECT value FROM json_each(?))",
        (start, json.dumps(uids)),
    )
    return [blockmap.decode_delta(row["delta"]) for row in rows]


def is_followed(connection: sqlite3.Connection, uid: str) -> bool:
    """Say whether another point, or a head, stands on a point."""
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM points WHERE parent = :uid)"
        " OR EXISTS (SELECT 1 FROM volumes WHERE parent_point = :uid)",
        {"uid": uid},
    ).fetchone()
    return bool(row[0])


def forget_unused(tx: db.Transaction, uid: str | None) -> None:
    """Remove a point that nothing refers to, then its parent if that is so, and so on."""
    while uid is not None:
        row = tx.execute(
            "SELECT parent, layer IS NOT NULL"
            " OR EXISTS (SELECT 1 FROM points WHERE parent = :uid)"
            " OR EXISTS (SELECT 1 FROM volumes WHERE parent_point = :uid)"
            " OR EXISTS (SELECT 1 FROM snapshots WHERE point = :uid) AS used FROM points WHERE uid = :uid",
            {"uid": uid},
        ).fetchone()
        if row is None or row["used"]:
            return
        tx.execute("DELETE FROM points WHERE uid = ?", (uid,))
        uid = row["parent"]


def mergeable(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return (point, child) where no snapshot, head or layer needs the point and one point alone stands on it."""
    rows = connection.execute(
        "SELECT p.uid AS uid, c.uid AS child FROM points p JOIN points c ON c.parent = p.uid"
        " WHERE p.layer IS NULL AND p.delta_recorded = 1 AND c.delta_recorded = 1"
        " AND NOT EXISTS (SELECT 1 FROM snapshots WHERE point = p.uid)"
        " AND NOT EXISTS (SELECT 1 FROM volumes WHERE parent_point = p.uid)"
        " AND 1 = (SELECT count(*) FROM points WHERE parent = p.uid)"
    )
    return [(row["uid"], row["child"]) for row in rows]


def set_parent(tx: db.Transaction, uid: str, parent: str | None) -> None:
    """Have a point follow another one."""
    tx.execute("UPDATE points SET parent = ? WHERE uid = ?", (parent, uid))
