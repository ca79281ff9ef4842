"""The tables of operations and of request ids."""

import datetime
import json
import sqlite3
from collections.abc import Mapping

from snapd import model
from snapd.catalog import db, events, listing, problems

_SOURCE = listing.Source(
    select="SELECT o.* FROM operations o",
    alias="o",
    fields={
        "name": listing.Field("o.id", orders=True),
        "create_time": listing.Field("o.created_us", listing.FieldType.TIME, orders=True),
        "done": listing.Field("o.done", listing.FieldType.FLAG),
        "method": listing.Field("o.method"),
        "target": listing.Field("o.target"),
    },
)


def _convert(row: sqlite3.Row) -> model.Operation:
    return model.Operation(
        uid=row["uid"],
        environment_uid=row["environment_uid"],
        environment=row["environment"],
        id=row["id"],
        method=row["method"],
        target=row["target"],
        target_uid=row["target_uid"],
        done=bool(row["done"]),
        error=problems.decode(row["error"]),
        created=db.from_us(row["created_us"]),
        ended=db.optional_time(row["ended_us"]),
        result=None if row["result"] is None else json.loads(row["result"]),
    )


def find(connection: sqlite3.Connection, environment: str, operation_id: str) -> model.Operation | None:
    """Return the operation with an id, of an environment that may be gone."""
    row = connection.execute(
        "SELECT * FROM operations WHERE environment = ? AND id = ?", (environment, operation_id)
    ).fetchone()
    return None if row is None else _convert(row)


def by_uid(connection: sqlite3.Connection, uid: str) -> model.Operation | None:
    """Return the operation with a uid."""
    row = connection.execute("SELECT * FROM operations WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else _convert(row)


def running_on(connection: sqlite3.Connection, target_uid: str) -> list[model.Operation]:
    """Return the operations on a resource that are not done, the oldest first."""
    rows = connection.execute(
        "SELECT * FROM operations WHERE target_uid = ? AND done = 0 ORDER BY created_us, uid", (target_uid,)
    )
    return [_convert(row) for row in rows]


def running(connection: sqlite3.Connection) -> list[model.Operation]:
    """Return the operations that are not done, the oldest first."""
    return [
        _convert(row) for row in connection.execute("SELECT * FROM operations WHERE done = 0 ORDER BY created_us, uid")
    ]


def page(
    connection: sqlite3.Connection, query: model.Query, environment_uid: str | None
) -> model.Page[model.Operation]:
    """Return one page of an environment's operations, or of all."""
    return listing.page(connection, _SOURCE, query, environment_uid, _convert)


def insert(tx: db.Transaction, operation: model.Operation) -> None:
    """Insert an operation."""
    columns: dict[str, db.Value] = {
        "uid": operation.uid,
        "environment_uid": operation.environment_uid,
        "environment": operation.environment,
        "id": operation.id,
        "method": operation.method,
        "target": operation.target,
        "target_uid": operation.target_uid,
        "done": int(operation.done),
        "error": problems.encode(operation.error),
        "created_us": db.to_us(operation.created),
        "ended_us": db.optional_us(operation.ended),
    }
    tx.execute(f"INSERT INTO operations {db.placeholders(columns)}", columns)


def end(
    tx: db.Transaction,
    uid: str,
    now: datetime.datetime,
    error: model.Problem | None = None,
    result: Mapping[str, int | bool | list[str]] | None = None,
) -> None:
    """End an operation, well or with an error. One that is done, or gone, stays as it is."""
    row = tx.execute(
        "UPDATE operations SET done = 1, error = ?, ended_us = ?, result = ? WHERE uid = ? AND done = 0"
        " RETURNING environment_uid",
        (problems.encode(error), db.to_us(now), None if result is None else json.dumps(dict(result)), uid),
    ).fetchone()
    if row is not None:
        events.append(tx, "operation", uid, row["environment_uid"], db.to_us(now))


def remove(tx: db.Transaction, uid: str) -> None:
    """Forget an operation that is done."""
    tx.execute("DELETE FROM operations WHERE uid = ? AND done = 1", (uid,))


def withdraw(tx: db.Transaction, uid: str) -> None:
    """Forget an operation, and the request that began it, as if it had never been accepted."""
    tx.execute("DELETE FROM requests WHERE operation_uid = ?", (uid,))
    tx.execute("DELETE FROM operations WHERE uid = ?", (uid,))


def trim(tx: db.Transaction, before: datetime.datetime) -> int:
    """Forget what ended before a moment, and return how many that were."""
    return tx.execute("DELETE FROM operations WHERE ended_us < ?", (db.to_us(before),)).rowcount


# --- request ids ------------------------------------------------------------------------------------------------------


def find_request(connection: sqlite3.Connection, request: model.Request) -> tuple[bytes, str, str] | None:
    """Return (digest, resource uid, operation uid or '') of a request that was accepted before under the same key."""
    row = connection.execute(
        "SELECT digest, resource_uid, operation_uid FROM requests"
        " WHERE identity = ? AND method = ? AND parent = ? AND request_id = ?",
        (request.identity, request.method, request.parent, request.request_id),
    ).fetchone()
    return None if row is None else (row["digest"], row["resource_uid"], row["operation_uid"])


def insert_request(
    tx: db.Transaction, request: model.Request, resource_uid: str, operation_uid: str, now: datetime.datetime
) -> None:
    """Remember what an accepted request made."""
    if request.request_id:
        columns: dict[str, db.Value] = {
            "identity": request.identity,
            "method": request.method,
            "parent": request.parent,
            "request_id": request.request_id,
            "digest": request.digest,
            "resource_uid": resource_uid,
            "operation_uid": operation_uid,
            "created_us": db.to_us(now),
        }
        tx.execute(f"INSERT INTO requests {db.placeholders(columns)}", columns)


def trim_requests(tx: db.Transaction, before: datetime.datetime) -> int:
    """Forget requests older than a moment, and return how many that were."""
    return tx.execute("DELETE FROM requests WHERE created_us < ?", (db.to_us(before),)).rowcount
