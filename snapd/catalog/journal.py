"""The tables of what is under way: intents, and uploads that have not ended."""

import dataclasses
import datetime
import json
import sqlite3
from collections.abc import Mapping

from snapd import model
from snapd.catalog import db


@dataclasses.dataclass(frozen=True, slots=True)
class UploadRow:
    """An import that has not ended."""

    volume_uid: str
    format: model.ImageFormat
    upload_bytes: int
    durable_offset: int
    expires: datetime.datetime


def _convert(row: sqlite3.Row) -> model.Intent:
    return model.Intent(
        number=row["number"],
        kind=row["kind"],
        subject=row["subject"],
        operation=row["operation"],
        payload=json.loads(row["payload"]),
        created=db.from_us(row["created_us"]),
    )


def open_intent(
    tx: db.Transaction,
    kind: str,
    subject: str,
    payload: Mapping[str, str],
    now: datetime.datetime,
    operation: str = "",
) -> model.Intent:
    """Write down what is about to be done."""
    cursor = tx.execute(
        "INSERT INTO intents (kind, subject, operation, payload, created_us) VALUES (?, ?, ?, ?, ?)",
        (kind, subject, operation, json.dumps(dict(payload)), db.to_us(now)),
    )
    assert cursor.lastrowid is not None
    return model.Intent(cursor.lastrowid, kind, subject, operation, payload, now)


def close_intent(tx: db.Transaction, intent: model.Intent) -> None:
    """Cross out an intent whose outcome this very transaction makes visible."""
    tx.execute("DELETE FROM intents WHERE number = ?", (intent.number,))


def is_open(connection: sqlite3.Connection, intent: model.Intent) -> bool:
    """Say whether an intent has not ended."""
    return connection.execute("SELECT 1 FROM intents WHERE number = ?", (intent.number,)).fetchone() is not None


def intents(connection: sqlite3.Connection) -> list[model.Intent]:
    """Return all open intents in the order in which they were opened."""
    return [_convert(row) for row in connection.execute("SELECT * FROM intents ORDER BY number")]


def intents_of(connection: sqlite3.Connection, subject: str) -> list[model.Intent]:
    """Return the open intents on a resource."""
    rows = connection.execute("SELECT * FROM intents WHERE subject = ? ORDER BY number", (subject,))
    return [_convert(row) for row in rows]


# --- uploads ----------------------------------------------------------------------------------------------------------


def _convert_upload(row: sqlite3.Row) -> UploadRow:
    return UploadRow(
        volume_uid=row["volume_uid"],
        format=model.ImageFormat(row["format"]),
        upload_bytes=row["upload_bytes"],
        durable_offset=row["durable_offset"],
        expires=db.from_us(row["expires_us"]),
    )


def insert_upload(tx: db.Transaction, upload: UploadRow) -> None:
    """Record that an import has begun."""
    tx.execute(
        "INSERT INTO uploads (volume_uid, format, upload_bytes, durable_offset, expires_us) VALUES (?, ?, ?, ?, ?)",
        (upload.volume_uid, upload.format, upload.upload_bytes, upload.durable_offset, db.to_us(upload.expires)),
    )


def find_upload(connection: sqlite3.Connection, volume_uid: str) -> UploadRow | None:
    """Return the import of a volume that has not ended."""
    row = connection.execute("SELECT * FROM uploads WHERE volume_uid = ?", (volume_uid,)).fetchone()
    return None if row is None else _convert_upload(row)


def advance_upload(tx: db.Transaction, volume_uid: str, durable_offset: int, expires: datetime.datetime) -> None:
    """Record how far an import is safe."""
    tx.execute(
        "UPDATE uploads SET durable_offset = ?, expires_us = ? WHERE volume_uid = ?",
        (durable_offset, db.to_us(expires), volume_uid),
    )


def remove_upload(tx: db.Transaction, volume_uid: str) -> None:
    """Forget an import that ended."""
    tx.execute("DELETE FROM uploads WHERE volume_uid = ?", (volume_uid,))


def uploads(connection: sqlite3.Connection) -> list[UploadRow]:
    """Return all imports that have not ended, the first to expire first."""
    return [_convert_upload(row) for row in connection.execute("SELECT * FROM uploads ORDER BY expires_us")]
