"""The table of pauses. One that is over counts as none, whether its row is still there or not."""

import datetime
import sqlite3

from snapd import model
from snapd.catalog import db


def find(connection: sqlite3.Connection, worker: model.Worker, now: datetime.datetime) -> model.Pause | None:
    """Return the pause that holds a worker at a moment, if one does."""
    row = connection.execute(
        "SELECT * FROM pauses WHERE worker = ? AND (until_us IS NULL OR until_us > ?)", (worker, db.to_us(now))
    ).fetchone()
    if row is None:
        return None
    return model.Pause(
        reason=row["reason"],
        paused_by=row["paused_by"],
        since=db.from_us(row["since_us"]),
        until=db.optional_time(row["until_us"]),
    )


def put(tx: db.Transaction, worker: model.Worker, pause: model.Pause) -> None:
    """Store a pause, in the place of the one that a worker has."""
    tx.execute(
        "INSERT OR REPLACE INTO pauses (worker, reason, paused_by, since_us, until_us) VALUES (?, ?, ?, ?, ?)",
        (worker, pause.reason, pause.paused_by, db.to_us(pause.since), db.optional_us(pause.until)),
    )


def remove(tx: db.Transaction, worker: model.Worker) -> None:
    """End a worker's pause, if it has one."""
    tx.execute("DELETE FROM pauses WHERE worker = ?", (worker,))
