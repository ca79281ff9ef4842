"""The change log. Every change of a resource appends an event, whose number is the resource's new revision."""

import datetime

from snapd.catalog import db


def append(
    tx: db.Transaction, resource_type: str, uid: str, environment_uid: str, now_us: int, *, removed: bool = False
) -> int:
    """Record that a resource changed or went, and return the new revision."""
    cursor = tx.execute(
        "INSERT INTO events (resource_type, uid, environment_uid, removed, created_us) VALUES (?, ?, ?, ?, ?)",
        (resource_type, uid, environment_uid, int(removed), now_us),
    )
    assert cursor.lastrowid is not None
    tx.revision = cursor.lastrowid
    return cursor.lastrowid


def trim(tx: db.Transaction, before: datetime.datetime) -> int:
    """Forget events older than a moment, but for the newest one, and return how many."""
    return tx.execute(
        "DELETE FROM events WHERE created_us < ? AND revision < (SELECT max(revision) FROM events)", (db.to_us(before),)
    ).rowcount
