"""The table of snapshots. The archiver's queue is in it too, see `queue`."""

import dataclasses
import datetime
import json
import sqlite3

from snapd import model
from snapd.catalog import db, events, listing, problems, queue

_MICROSECOND = datetime.timedelta(microseconds=1)
_SELECT = "SELECT s.*, e.id AS environment FROM snapshots s JOIN environments e ON e.uid = s.environment_uid"
_SOURCE = listing.Source(
    select=_SELECT,
    alias="s",
    fields={
        "name": listing.Field("s.id", orders=True),
        "create_time": listing.Field("s.created_us", listing.FieldType.TIME, orders=True),
        "capture_time": listing.Field("s.captured_us", listing.FieldType.TIME, orders=True),
        "size_bytes": listing.Field("s.size_bytes", listing.FieldType.SIZE, orders=True),
        "state": listing.Field("s.state"),
        "rapid": listing.Field("s.rapid", listing.FieldType.FLAG),
        "volume": listing.Field("s.volume"),
        "volume_uid": listing.Field("s.volume_uid"),
        "archive.state": listing.Field("s.archive_state"),
        "recovered": listing.Field("s.recovered", listing.FieldType.FLAG),
    },
)


def _convert(row: sqlite3.Row) -> model.Snapshot:
    retention = row["retention_us"]
    return model.Snapshot(
        uid=row["uid"],
        environment_uid=row["environment_uid"],
        environment=row["environment"],
        id=row["id"],
        display_name=row["display_name"],
        labels=json.loads(row["labels"]),
        volume=row["volume"],
        volume_uid=row["volume_uid"],
        point=row["point"],
        size_bytes=row["size_bytes"],
        state=model.SnapshotState(row["state"]),
        error=problems.decode(row["error"]),
        requested_rapid=bool(row["requested_rapid"]),
        rapid=bool(row["rapid"]),
        retention=None if retention is None else datetime.timedelta(microseconds=retention),
        archive=model.Archive(
            state=model.ArchiveState(row["archive_state"]),
            due=db.optional_time(row["archive_due_us"]),
            next_attempt=db.optional_time(row["archive_next_us"]),
            archived=db.optional_time(row["archived_us"]),
            attempts=row["archive_attempts"],
            error=problems.decode(row["archive_error"]),
            stored_bytes=row["stored_bytes"],
            figures=model.ArchiveFigures(
                changed=row["archive_changed_bytes"],
                read=row["archive_read_bytes"],
                zero=row["archive_zero_bytes"],
                deduplicated=row["archive_deduplicated_bytes"],
                new=row["archive_new_bytes"],
            ),
            checked=db.optional_time(row["archive_checked_us"]),
            urgent=bool(row["archive_urgent"]),
            estimated_bytes=row["archive_estimated_bytes"],
        ),
        health=model.HealthState(row["health"]),
        captured=db.from_us(row["captured_us"]),
        created=db.from_us(row["created_us"]),
        updated=db.from_us(row["updated_us"]),
        revision=row["revision"],
        damage=_decode_damage(row["damage"]),
        recovered=bool(row["recovered"]),
    )


def _decode_damage(text: str | None) -> model.Damage | None:
    if text is None:
        return None
    found = json.loads(text)
    return model.Damage(tuple((offset, length) for offset, length in found["ranges"]), found["bytes"])


def _encode_damage(damage: model.Damage | None) -> str | None:
    return None if damage is None else json.dumps({"bytes": damage.total_bytes, "ranges": damage.ranges})


def find(connection: sqlite3.Connection, environment_uid: str, snapshot_id: str) -> model.Snapshot | None:
    """Return the snapshot with an id in an environment."""
    row = connection.execute(
        f"{_SELECT} WHERE s.environment_uid = ? AND s.id = ?", (environment_uid, snapshot_id)
    ).fetchone()
    return None if row is None else _convert(row)


def by_uid(connection: sqlite3.Connection, uid: str) -> model.Snapshot | None:
    """Return the snapshot with a uid."""
    row = connection.execute(f"{_SELECT} WHERE s.uid = ?", (uid,)).fetchone()
    return None if row is None else _convert(row)


def of_point(connection: sqlite3.Connection, point: str) -> list[model.Snapshot]:
    """Return the snapshots that name a point."""
    return [_convert(row) for row in connection.execute(f"{_SELECT} WHERE s.point = ?", (point,))]


def archived_uids(connection: sqlite3.Connection, environment_uid: str) -> set[str]:
    """Return the uids of an environment's snapshots that are in the archive."""
    rows = connection.execute(
        "SELECT uid FROM snapshots WHERE environment_uid = ? AND archive_state = ?",
        (environment_uid, model.ArchiveState.ARCHIVED),
    )
    return {row["uid"] for row in rows}


def every(connection: sqlite3.Connection) -> list[model.Snapshot]:
    """Return all snapshots."""
    return [_convert(row) for row in connection.execute(_SELECT)]


def page(connection: sqlite3.Connection, query: model.Query, environment_uid: str | None) -> model.Page[model.Snapshot]:
    """Return one page of an environment's snapshots, or of all."""
    return listing.page(connection, _SOURCE, query, environment_uid, _convert)


def attempts(connection: sqlite3.Connection, uid: str) -> tuple[int, datetime.datetime | None] | None:
    """Return how many attempts to archive a snapshot were begun and when the next one is due; None if it isn't there.

    It costs less than the whole snapshot.
    """
    row = connection.execute("SELECT archive_attempts, archive_next_us FROM snapshots WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else (row["archive_attempts"], db.optional_time(row["archive_next_us"]))


def put(tx: db.Transaction, snapshot: model.Snapshot) -> None:
    """Insert a snapshot, or store it in the place of the one with its uid."""
    now_us = db.to_us(snapshot.updated)
    archive = snapshot.archive
    columns: dict[str, db.Value] = {
        "uid": snapshot.uid,
        "environment_uid": snapshot.environment_uid,
        "id": snapshot.id,
        "display_name": snapshot.display_name,
        "labels": json.dumps(dict(snapshot.labels)),
        "volume": snapshot.volume,
        "volume_uid": snapshot.volume_uid,
        "point": snapshot.point,
        "size_bytes": snapshot.size_bytes,
        "state": snapshot.state,
        "error": problems.encode(snapshot.error),
        "requested_rapid": int(snapshot.requested_rapid),
        "rapid": int(snapshot.rapid),
        "retention_us": None if snapshot.retention is None else snapshot.retention // _MICROSECOND,
        "archive_state": archive.state,
        "archive_due_us": db.optional_us(archive.due),
        "archive_next_us": db.optional_us(archive.next_attempt),
        "archived_us": db.optional_us(archive.archived),
        "archive_attempts": archive.attempts,
        "archive_error": problems.encode(archive.error),
        "stored_bytes": archive.stored_bytes,
        "archive_changed_bytes": archive.figures.changed,
        "archive_read_bytes": archive.figures.read,
        "archive_zero_bytes": archive.figures.zero,
        "archive_deduplicated_bytes": archive.figures.deduplicated,
        "archive_new_bytes": archive.figures.new,
        "archive_checked_us": db.optional_us(archive.checked),
        "archive_urgent": int(archive.urgent),
        "archive_estimated_bytes": archive.estimated_bytes,
        "archive_rank_us": db.optional_us(queue.rank(archive)),
        "health": snapshot.health,
        "damage": _encode_damage(snapshot.damage),
        "captured_us": db.to_us(snapshot.captured),
        "created_us": db.to_us(snapshot.created),
        "updated_us": now_us,
        "recovered": int(snapshot.recovered),
        "revision": events.append(tx, "snapshot", snapshot.uid, snapshot.environment_uid, now_us),
    }
    tx.execute(f"INSERT INTO snapshots {db.placeholders(columns)} {db.upsert(columns)}", columns)


def touch(tx: db.Transaction, uid: str, now: datetime.datetime) -> None:
    """Record that what is told of a snapshot besides its row changed. One that is gone is left alone."""
    row = tx.execute("SELECT environment_uid FROM snapshots WHERE uid = ?", (uid,)).fetchone()
    if row is not None:
        revision = events.append(tx, "snapshot", uid, row["environment_uid"], db.to_us(now))
        tx.execute("UPDATE snapshots SET revision = ?, updated_us = ? WHERE uid = ?", (revision, db.to_us(now), uid))


def note_check(tx: db.Transaction, uid: str, checked: datetime.datetime | None) -> None:
    """Store when an archived snapshot's oldest part was checked: no event, since nothing of it has changed."""
    tx.execute("UPDATE snapshots SET archive_checked_us = ? WHERE uid = ?", (db.optional_us(checked), uid))


def archived(connection: sqlite3.Connection, environment_uid: str) -> list[model.Snapshot]:
    """Return the snapshots of an environment that are in the archive."""
    rows = connection.execute(
        f"{_SELECT} WHERE s.environment_uid = ? AND s.archive_state = ?", (environment_uid, model.ArchiveState.ARCHIVED)
    )
    return [_convert(row) for row in rows]


def any_damaged(connection: sqlite3.Connection, environment_uid: str) -> bool:
    """Say whether a snapshot of an environment is known to be damaged."""
    row = connection.execute(
        "SELECT 1 FROM snapshots WHERE environment_uid = ? AND health = ? LIMIT 1",
        (environment_uid, model.HealthState.DAMAGED),
    ).fetchone()
    return row is not None


def waiting_again(snapshot: model.Snapshot, now: datetime.datetime) -> model.Snapshot:
    """Return a snapshot that waits for its due time, as before somebody asked for it to be archived at once."""
    archive = dataclasses.replace(
        snapshot.archive,
        state=model.ArchiveState.SCHEDULED,
        next_attempt=snapshot.archive.due,
        error=None,
        urgent=False,
    )
    return dataclasses.replace(snapshot, archive=archive, updated=now)


def fail(tx: db.Transaction, snapshot: model.Snapshot, problem: model.Problem, now: datetime.datetime) -> None:
    """Store that a snapshot can't be used any more, and why."""
    failed = dataclasses.replace(snapshot, state=model.SnapshotState.FAILED, error=problem, updated=now)
    put(tx, failed)


def remove(tx: db.Transaction, snapshot: model.Snapshot, now: datetime.datetime) -> None:
    """Delete a snapshot's row."""
    tx.execute("DELETE FROM snapshots WHERE uid = ?", (snapshot.uid,))
    events.append(tx, "snapshot", snapshot.uid, snapshot.environment_uid, db.to_us(now), removed=True)
