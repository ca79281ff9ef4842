"""The new catalog's file: written in one transaction into a copy of the backup, checked, and published.

Numbers go on behind all that were ever given out, so that no etag, page token or generation comes twice: behind the
highest ones known by more than a daemon can have given out since the backup.
"""

import datetime
import json
import os
import pathlib
from typing import Final

from snapd import errors, fsops
from snapd.catalog import copying, db, environments, layers, operations, points, snapshots, volumes
from snapd.service import names
from snapd.service.inspection import rows as inspected
from snapd.service.rebuilding import base as bases
from snapd.service.rebuilding import evidence as evidences
from snapd.service.rebuilding import joining

_AHEAD: Final = 1 << 20
_FASTEST: Final = datetime.timedelta(milliseconds=1)
"""No daemon gives out numbers faster than this for long."""
_BESIDE: Final = ("-wal", "-shm", "-journal")
"""Files that SQLite would take for the catalog's by their names."""


def write(path: pathlib.Path, host: str, evidence: evidences.Evidence, rows: joining.Rows) -> None:
    """Put the rows in the place of those that a copy of the backup, or an empty catalog, has.

    Raises errors.StorageFull, errors.StorageFailed, errors.Corrupt.
    """
    catalog = db.Catalog(path)
    try:
        with catalog.transaction() as tx:
            # Rows refer to one another in circles, so they are compared once all are there.
            tx.execute("PRAGMA defer_foreign_keys = ON")
            _go_on_behind(tx, evidence)
            tx.execute("DELETE FROM identity")
            tx.execute("INSERT INTO identity (host) VALUES (?)", (host,))
            _replace(tx, rows)
            _end(tx, evidence)
    finally:
        catalog.close()


def _go_on_behind(tx: db.Transaction, evidence: evidences.Evidence) -> None:
    base = evidence.base
    passed = max(0, (evidence.now - base.newest) // _FASTEST)
    for table, highest in (
        ("events", base.revision),
        ("intents", max(base.generation, evidence.pool.highest_generation)),
    ):
        tx.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, highest + _AHEAD + passed))


def _replace(tx: db.Transaction, rows: joining.Rows) -> None:
    # Nobody knows whether what was attached still is; who has a file open is told by the locks on it.
    for table in (
        "attachments",
        "storage_daemons",
        "intents",
        "uploads",
        "snapshots",
        "volumes",
        "layers",
        "environments",
    ):
        tx.execute(f"DELETE FROM {table}")
    # Points stay, since their deltas go with them.
    kept = json.dumps([point.uid for point in rows.points])
    tx.execute("DELETE FROM points WHERE uid NOT IN (SELECT value FROM json_each(?))", (kept,))
    tx.execute("UPDATE points SET layer = NULL, parent = NULL")
    for environment in rows.environments:
        environments.put(tx, environment)
    for layer in rows.layers:
        layers.insert(tx, layer)
    known = points.uids(tx.connection)
    for point in rows.points:
        if point.uid not in known:
            points.insert(tx, point)
        else:
            points.set_parent(tx, point.uid, point.parent)
            points.set_layer(tx, point.uid, point.layer)
    for volume in rows.volumes:
        volumes.put(tx, volume)
    for snapshot in rows.snapshots:
        snapshots.put(tx, snapshot)


def _end(tx: db.Transaction, evidence: evidences.Evidence) -> None:
    """End the operations that had not ended: nothing is under way."""
    for operation in operations.running(tx.connection):
        name = names.operation(operation.environment, operation.id)
        problem = evidences.rebuilt(name, "what became of this isn't known")
        operations.end(tx, operation.uid, evidence.now, problem)


def finish(path: pathlib.Path, finished: pathlib.Path) -> None:
    """Copy a catalog that was written into a file without a log, durable but for its name, and check it.

    Raises errors.Corrupt if it isn't as it should be, errors.StorageFull, errors.StorageFailed.
    """
    copying.copy(path, finished)
    with db.looked_into(finished) as connection:
        found = next(inspected.look(connection), None)
    if found is not None:
        raise errors.Corrupt(what="the rebuilt catalog", problem=found.problem)


def start(path: pathlib.Path, backup: pathlib.Path | None) -> bases.Base:
    """Bring a copy of a backup to the present schema, or make an empty catalog, and return what it says.

    Raises errors.SchemaTooNew, errors.Corrupt, errors.StorageFull, errors.StorageFailed.
    """
    if backup is not None:
        copying.copy(backup, path)
    elif not path.exists():
        with fsops.translated(path):
            os.close(fsops.create(path))
    catalog = db.Catalog(path)
    try:
        return bases.read(catalog.reader())
    finally:
        catalog.close()


def publish(finished: pathlib.Path, path: pathlib.Path, now: datetime.datetime) -> str:
    """Give the new catalog its name, and return the name under which the one that was there is set aside, or ''.

    The old one goes first, with what SQLite keeps beside it: its log must never be taken for the new one's. Killed in
    between there is no catalog, and no daemon starts. Raises errors.StorageFailed, errors.StorageFull.
    """
    with fsops.translated(path):
        aside = _free_name(path, now)
        moved = False
        for suffix in ("", *_BESIDE):
            old = path.with_name(path.name + suffix)
            if old.exists():
                fsops.rename(old, aside.with_name(aside.name + suffix))
                moved = True
        if moved:
            fsops.sync_directory(path.parent)
        fsops.publish(finished, path)
    return aside.name if moved else ""


def _free_name(path: pathlib.Path, now: datetime.datetime) -> pathlib.Path:
    wanted = path.with_name(f"{path.name}.{now:%Y%m%dT%H%M%SZ}")
    number = 1
    found = wanted
    while any(found.with_name(found.name + suffix).exists() for suffix in ("", *_BESIDE)):
        number += 1
        found = wanted.with_name(f"{wanted.name}-{number}")
    return found
