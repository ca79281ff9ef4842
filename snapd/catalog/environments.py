"""The table of environments."""

import datetime
import json
import sqlite3

from snapd import model
from snapd.catalog import db, events, listing

_SOURCE = listing.Source(
    select="SELECT e.* FROM environments e",
    alias="e",
    fields={
        "name": listing.Field("e.id", orders=True),
        "create_time": listing.Field("e.created_us", listing.FieldType.TIME, orders=True),
    },
    scoped=False,
)


def _convert(row: sqlite3.Row) -> model.Environment:
    retention = row["retention_us"]
    return model.Environment(
        uid=row["uid"],
        id=row["id"],
        display_name=row["display_name"],
        labels=json.loads(row["labels"]),
        retention=None if retention is None else datetime.timedelta(microseconds=retention),
        created=db.from_us(row["created_us"]),
        updated=db.from_us(row["updated_us"]),
        revision=row["revision"],
    )


def find(connection: sqlite3.Connection, environment_id: str) -> model.Environment | None:
    """Return the environment with an id."""
    row = connection.execute("SELECT * FROM environments WHERE id = ?", (environment_id,)).fetchone()
    return None if row is None else _convert(row)


def by_uid(connection: sqlite3.Connection, uid: str) -> model.Environment | None:
    """Return the environment with a uid."""
    row = connection.execute("SELECT * FROM environments WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else _convert(row)


def every(connection: sqlite3.Connection) -> list[model.Environment]:
    """Return all environments, by their ids."""
    return [_convert(row) for row in connection.execute("SELECT * FROM environments ORDER BY id")]


def page(connection: sqlite3.Connection, query: model.Query) -> model.Page[model.Environment]:
    """Return one page of all environments."""
    return listing.page(connection, _SOURCE, query, None, _convert)


def put(tx: db.Transaction, environment: model.Environment) -> None:
    """Insert an environment, or store it in the place of the one with its uid."""
    now_us = db.to_us(environment.updated)
    columns: dict[str, db.Value] = {
        "uid": environment.uid,
        "id": environment.id,
        "display_name": environment.display_name,
        "labels": json.dumps(dict(environment.labels)),
        "retention_us": (
            None if environment.retention is None else environment.retention // datetime.timedelta(microseconds=1)
        ),
        "created_us": db.to_us(environment.created),
        "updated_us": now_us,
        "revision": events.append(tx, "environment", environment.uid, environment.uid, now_us),
    }
    tx.execute(f"INSERT INTO environments {db.placeholders(columns)} {db.upsert(columns)}", columns)


def remove(tx: db.Transaction, environment: model.Environment, now: datetime.datetime) -> None:
    """Delete an environment that nothing refers to."""
    tx.execute("DELETE FROM environments WHERE uid = ?", (environment.uid,))
    events.append(tx, "environment", environment.uid, environment.uid, db.to_us(now), removed=True)


def contents(connection: sqlite3.Connection, uid: str) -> tuple[int, int]:
    """Return how many volumes and snapshots an environment holds."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM volumes WHERE environment_uid = :uid),"
        " (SELECT count(*) FROM snapshots WHERE environment_uid = :uid)",
        {"uid": uid},
    ).fetchone()
    return row[0], row[1]
