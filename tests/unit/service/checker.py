"""The checker: looks at every row and every file of a service that is at rest."""

import contextlib
import os
import pathlib
import sqlite3
import subprocess

from snapd.archive import repository as repositories
from snapd.archive.backends import directory
from snapd.catalog import layers, points
from snapd.live import process as processes
from snapd.pool import layers as pools
from snapd.service.settings import Settings
from tests import storagedaemons

_TABLES = (
    *("environments", "layers", "points", "volumes", "snapshots", "operations", "requests", "intents"),
    *("attachments", "storage_daemons"),
)
"""What is the same again when a service that is at rest is opened and closed."""


def check_at_rest(settings: Settings) -> None:
    """Look at every row and file of a service that is closed and had come to rest. Uploads may wait for clients."""
    with contextlib.closing(sqlite3.connect(f"file:{settings.catalog_path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        _check_catalog(connection)
        _check_pool(connection, settings)
        _check_archive(connection, settings)
        _check_attachments(connection, settings)


def is_settled(settings: Settings) -> bool:
    """Say whether a service, which may run, has nothing left to do: no intents, nothing to remove, fold or merge."""
    with contextlib.closing(sqlite3.connect(f"file:{settings.catalog_path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        busy = connection.execute(
            "SELECT 1 FROM intents UNION ALL SELECT 1 FROM layers WHERE state NOT IN ('HEAD', 'FROZEN')"
        ).fetchone()
        foldable = any(layers.foldable(connection, uid) for uid in layers.frozen_uids(connection))
        return busy is None and not foldable and not points.mergeable(connection)


def fingerprint(settings: Settings) -> dict[str, object]:
    """Return what there is: rows and files with their sizes, but not when the scrubber checked what."""
    found: dict[str, object] = {}
    with contextlib.closing(sqlite3.connect(f"file:{settings.catalog_path}?mode=ro", uri=True)) as connection:
        for table in _TABLES:
            known = (str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})"))
            columns = ", ".join(name for name in known if name != "archive_checked_us")
            found[table] = sorted(repr(row) for row in connection.execute(f"SELECT {columns} FROM {table}"))
    for root in (settings.pool_path, settings.archive_path):
        for folder, _, names in os.walk(root):
            for name in names:
                path = pathlib.Path(folder, name)
                found[str(path)] = path.stat().st_size
    return found


def _none(connection: sqlite3.Connection, sql: str) -> None:
    found = [tuple(row) for row in connection.execute(sql)]
    assert not found, f"{sql}: {found}"


def _check_catalog(connection: sqlite3.Connection) -> None:
    damage = connection.execute("PRAGMA integrity_check").fetchone()[0]
    assert damage == "ok", f"the catalog is damaged: {damage}"
    _none(connection, "PRAGMA foreign_key_check")
    _none(connection, "SELECT * FROM intents WHERE kind NOT IN ('upload', 'write')")
    _none(connection, "SELECT * FROM intents WHERE kind = 'upload' AND subject NOT IN (SELECT volume_uid FROM uploads)")
    _none(connection, "SELECT * FROM uploads WHERE volume_uid NOT IN (SELECT subject FROM intents)")
    _none(
        connection,
        "SELECT uid, state FROM layers WHERE state NOT IN ('HEAD', 'FROZEN')"
        " AND uid NOT IN (SELECT json_extract(payload, '$.head') FROM intents WHERE kind = 'upload')",
    )
    _none(connection, "SELECT uid FROM layers WHERE state = 'HEAD' AND uid NOT IN (SELECT head_layer FROM volumes)")
    _none(
        connection,
        "SELECT v.uid FROM volumes v LEFT JOIN layers l ON l.uid = v.head_layer"
        " WHERE v.activity = '' AND l.state IS NOT 'HEAD'",
    )
    _none(connection, "SELECT uid, activity FROM volumes WHERE activity IN ('REVERTING', 'DESTROYING')")
    _none(connection, "SELECT uid FROM snapshots WHERE state = 'DESTROYING'")
    # A snapshot that isn't archived has its layer.
    _none(
        connection,
        "SELECT s.id FROM snapshots s JOIN points p ON p.uid = s.point LEFT JOIN layers l ON l.uid = p.layer"
        " WHERE s.archive_state != 'ARCHIVED' AND l.state IS NOT 'FROZEN'",
    )
    # Nothing is kept that nothing needs.
    _none(
        connection,
        "SELECT uid FROM layers l WHERE state = 'FROZEN' AND NOT EXISTS (SELECT 1 FROM layers c WHERE c.parent = l.uid)"
        " AND NOT EXISTS (SELECT 1 FROM points p JOIN snapshots s ON s.point = p.uid"
        " WHERE p.layer = l.uid AND s.archive_state != 'ARCHIVED')",
    )
    _none(
        connection,
        "SELECT uid FROM points p WHERE layer IS NULL AND uid NOT IN (SELECT point FROM snapshots)"
        " AND NOT EXISTS (SELECT 1 FROM volumes WHERE parent_point = p.uid)"
        " AND NOT EXISTS (SELECT 1 FROM points WHERE parent = p.uid)",
    )


def _check_pool(connection: sqlite3.Connection, settings: Settings) -> None:
    pool = pools.Pool(settings.pool_path, settings.low_watermark_bytes)
    uploading = {row[0] for row in connection.execute("SELECT volume_uid FROM uploads")}
    written = {row[0] for row in connection.execute("SELECT json_extract(payload, '$.layer') FROM intents")}
    known = {row["uid"]: row for row in connection.execute("SELECT * FROM layers")}
    # Only the storage daemon knows what they hold.
    live = {row[0] for row in connection.execute(_LIVE_HEADS)}
    strays = pool.strays(set(known) | uploading)
    assert not strays, f"nothing explains {strays}"
    for uid, row in known.items():
        if row["state"] == "CREATING":
            continue
        path = pool.path(uid)
        assert path.exists(), f"layer {uid} has no file"
        assert not pool.temporary_path(uid).exists(), f"layer {uid} is still being made"
        if uid in live:
            continue
        checked = subprocess.run(["qemu-img", "check", "-q", str(path)], capture_output=True, text=True, check=False)
        sound = (0, 3) if uid in written else (0,)
        assert checked.returncode in sound, f"layer {uid}: {checked.stdout}{checked.stderr}"


def _check_attachments(connection: sqlite3.Connection, settings: Settings) -> None:
    """Each attachment is served by the process that its row names, or has crashed; nobody else serves anything."""
    _none(connection, "SELECT uid, state FROM attachments WHERE state NOT IN ('ATTACHED', 'CRASHED')")
    _none(connection, "SELECT uid FROM storage_daemons WHERE uid NOT IN (SELECT storage_daemon FROM attachments)")
    _none(connection, "SELECT uid FROM attachments WHERE (volume_uid IS NULL) = (snapshot_uid IS NULL)")
    serving = set()
    for row in connection.execute("SELECT * FROM storage_daemons"):
        states = {found[0] for found in connection.execute(_STATES, (row["uid"],))}
        assert len(states) == 1, "the disks of a process end with it"
        process = processes.find(processes.Identity(row["boot"], row["pid"], row["start_ticks"]))
        assert (process is not None) == (states == {"ATTACHED"}), f"storage daemon {row['uid']}: {states}"
        if process is not None:
            serving.add(process.identity)
            process.close()
    there = storagedaemons.found(settings.live.exports_path)
    assert {process.identity for process in there} == serving
    for process in there:
        process.close()
    folders = {path.name for path in settings.live.exports_path.glob("*")}
    assert folders == {row[0] for row in connection.execute("SELECT uid FROM storage_daemons")}


_STATES = "SELECT DISTINCT state FROM attachments WHERE storage_daemon = ?"
_LIVE_HEADS = "SELECT v.head_layer FROM volumes v JOIN attachments a ON a.volume_uid = v.uid WHERE a.state != 'CRASHED'"


def _check_archive(connection: sqlite3.Connection, settings: Settings) -> None:
    expected: dict[str, set[str]] = {row["uid"]: set() for row in connection.execute("SELECT uid FROM environments")}
    for row in connection.execute("SELECT uid, environment_uid FROM snapshots WHERE archive_state = 'ARCHIVED'"):
        expected[row["environment_uid"]].add(row["uid"])
    repository = repositories.Repository.open(
        directory.DirectoryBackend(settings.archive_path), settings.index_path, settings.host
    )
    try:
        for environment_uid, wanted in expected.items():
            found = set(repository.snapshots(environment_uid))
            assert found == wanted, f"{environment_uid}: lost {wanted - found}, left over {found - wanted}"
    finally:
        repository.close()
