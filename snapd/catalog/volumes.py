"""The table of volumes. A volume's state is derived when it is read: what is under way on it, and its snapshots."""

import datetime
import json
import sqlite3

from snapd import model
from snapd.catalog import db, events, listing, problems

_STATE = (
    "CASE WHEN v.activity != '' THEN v.activity"
    " WHEN EXISTS (SELECT 1 FROM snapshots s WHERE s.volume_uid = v.uid AND s.state = 'IN_PROGRESS')"
    " THEN 'SNAPSHOT_IN_PROGRESS' ELSE 'READY' END"
)
_JOIN = "JOIN environments e ON e.uid = v.environment_uid"
_SELECT = f"SELECT v.*, {_STATE} AS state, e.id AS environment FROM volumes v {_JOIN}"
_SOURCE = listing.Source(
    # Filters name the derived state as if it were a column.
    select=(
        "SELECT v.*, e.id AS environment FROM (SELECT v.*, " + _STATE + " AS state FROM volumes v) v"
        " JOIN environments e ON e.uid = v.environment_uid"
    ),
    alias="v",
    fields={
        "name": listing.Field("v.id", orders=True),
        "create_time": listing.Field("v.created_us", listing.FieldType.TIME, orders=True),
        "size_bytes": listing.Field("v.size_bytes", listing.FieldType.SIZE, orders=True),
        "state": listing.Field("v.state"),
        "role": listing.Field("v.role"),
        "instance": listing.Field("v.instance"),
        "source_snapshot": listing.Field("v.source_snapshot"),
        "recovered": listing.Field("v.recovered", listing.FieldType.FLAG),
    },
)
_ACTIVITIES = frozenset(model.VolumeState) - {model.VolumeState.READY, model.VolumeState.SNAPSHOT_IN_PROGRESS}


def _convert(row: sqlite3.Row) -> model.Volume:
    return model.Volume(
        uid=row["uid"],
        environment_uid=row["environment_uid"],
        environment=row["environment"],
        id=row["id"],
        display_name=row["display_name"],
        labels=json.loads(row["labels"]),
        role=model.VolumeRole(row["role"]),
        instance=row["instance"],
        size_bytes=row["size_bytes"],
        state=model.VolumeState(row["state"]),
        error=problems.decode(row["error"]),
        source_snapshot=row["source_snapshot"],
        head_layer=row["head_layer"],
        parent_point=row["parent_point"],
        created=db.from_us(row["created_us"]),
        updated=db.from_us(row["updated_us"]),
        revision=row["revision"],
        recovered=bool(row["recovered"]),
    )


def find(connection: sqlite3.Connection, environment_uid: str, volume_id: str) -> model.Volume | None:
    """Return the volume with an id in an environment."""
    row = connection.execute(
        f"{_SELECT} WHERE v.environment_uid = ? AND v.id = ?", (environment_uid, volume_id)
    ).fetchone()
    return None if row is None else _convert(row)


def by_uid(connection: sqlite3.Connection, uid: str) -> model.Volume | None:
    """Return the volume with a uid."""
    row = connection.execute(f"{_SELECT} WHERE v.uid = ?", (uid,)).fetchone()
    return None if row is None else _convert(row)


def every(connection: sqlite3.Connection) -> list[model.Volume]:
    """Return all volumes."""
    return [_convert(row) for row in connection.execute(_SELECT)]


def page(connection: sqlite3.Connection, query: model.Query, environment_uid: str | None) -> model.Page[model.Volume]:
    """Return one page of an environment's volumes, or of all."""
    return listing.page(connection, _SOURCE, query, environment_uid, _convert)


def put(tx: db.Transaction, volume: model.Volume) -> None:
    """Insert a volume, or store it in the place of the one with its uid."""
    now_us = db.to_us(volume.updated)
    columns: dict[str, db.Value] = {
        "uid": volume.uid,
        "environment_uid": volume.environment_uid,
        "id": volume.id,
        "display_name": volume.display_name,
        "labels": json.dumps(dict(volume.labels)),
        "role": volume.role,
        "instance": volume.instance,
        "size_bytes": volume.size_bytes,
        "activity": volume.state if volume.state in _ACTIVITIES else "",
        "error": problems.encode(volume.error),
        "source_snapshot": volume.source_snapshot,
        "head_layer": volume.head_layer,
        "parent_point": volume.parent_point,
        "created_us": db.to_us(volume.created),
        "updated_us": now_us,
        "recovered": int(volume.recovered),
        "revision": events.append(tx, "volume", volume.uid, volume.environment_uid, now_us),
    }
    tx.execute(f"INSERT INTO volumes {db.placeholders(columns)} {db.upsert(columns)}", columns)


def touch(tx: db.Transaction, uid: str, now: datetime.datetime) -> None:
    """Record that a volume's derived state changed. A volume that is gone is left alone."""
    row = tx.execute("SELECT environment_uid FROM volumes WHERE uid = ?", (uid,)).fetchone()
    if row is not None:
        revision = events.append(tx, "volume", uid, row["environment_uid"], db.to_us(now))
        tx.execute("UPDATE volumes SET revision = ?, updated_us = ? WHERE uid = ?", (revision, db.to_us(now), uid))


def remove(tx: db.Transaction, volume: model.Volume, now: datetime.datetime) -> None:
    """Delete a volume's row."""
    tx.execute("DELETE FROM volumes WHERE uid = ?", (volume.uid,))
    events.append(tx, "volume", volume.uid, volume.environment_uid, db.to_us(now), removed=True)
