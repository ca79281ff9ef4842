"""The table of storage daemons: the processes that serve attached disks, each with what names it for all time."""

import sqlite3

from snapd import model
from snapd.catalog import db


def _convert(row: sqlite3.Row) -> model.StorageDaemon:
    return model.StorageDaemon(
        uid=row["uid"],
        instance=row["instance"],
        environment_uid=row["environment_uid"],
        launcher=model.Launcher(row["launcher"]),
        generation=row["generation"],
        boot=row["boot"],
        pid=row["pid"],
        start_ticks=row["start_ticks"],
    )


def find(connection: sqlite3.Connection, uid: str) -> model.StorageDaemon | None:
    """Return a storage daemon if it is there."""
    row = connection.execute("SELECT * FROM storage_daemons WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else _convert(row)


def get(connection: sqlite3.Connection, uid: str) -> model.StorageDaemon:
    """Return a storage daemon, which must be there."""
    found = find(connection, uid)
    assert found is not None
    return found


def every(connection: sqlite3.Connection) -> list[model.StorageDaemon]:
    """Return all storage daemons."""
    return [_convert(row) for row in connection.execute("SELECT * FROM storage_daemons ORDER BY uid")]


def of_instance(connection: sqlite3.Connection, environment_uid: str, instance: str) -> list[model.StorageDaemon]:
    """Return those that serve, or served, an instance's volumes."""
    rows = connection.execute(
        "SELECT * FROM storage_daemons WHERE environment_uid = ? AND instance = ? AND instance != '' ORDER BY uid",
        (environment_uid, instance),
    )
    return [_convert(row) for row in rows]


def put(tx: db.Transaction, daemon: model.StorageDaemon) -> None:
    """Insert a storage daemon, or store it in the place of the one with its uid."""
    columns: dict[str, db.Value] = {
        "uid": daemon.uid,
        "instance": daemon.instance,
        "environment_uid": daemon.environment_uid,
        "launcher": daemon.launcher,
        "generation": daemon.generation,
        "boot": daemon.boot,
        "pid": daemon.pid,
        "start_ticks": daemon.start_ticks,
    }
    tx.execute(f"INSERT INTO storage_daemons {db.placeholders(columns)} {db.upsert(columns)}", columns)


def forget_unused(tx: db.Transaction, uid: str) -> None:
    """Forget a storage daemon that no attachment names."""
    tx.execute(
        "DELETE FROM storage_daemons WHERE uid = :uid AND uid NOT IN (SELECT storage_daemon FROM attachments)",
        {"uid": uid},
    )
