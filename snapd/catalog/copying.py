"""Consistent copies of the catalog's file, made beside whoever writes it; and whether such a file is whole.

SQLite's backup interface reads all pages under one read lock, which WAL never makes a writer wait for. A copy is a
single file: it has no write-ahead log of its own.
"""

import os
import pathlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from snapd import errors, fsops

_BESIDE = ("", "-journal", "-wal", "-shm")
"""What SQLite may leave of a database's name when it is killed."""


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Write a consistent copy of a catalog into a file that isn't there, check it and make its bytes durable.

    The caller syncs the folder, or needn't, and removes what is left after an error. Raises errors.StorageFailed, also
    if the source isn't there; errors.StorageFull, errors.Corrupt.
    """
    with fsops.translated(target):
        os.close(fsops.create(target))
    with _connected(source, "ro") as read, _connected(target, "rw") as written:
        try:
            # A copy that is cut short is made again, so nothing needs to be undone in it.
            written.execute("PRAGMA synchronous = OFF")
            read.backup(written)
            written.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise errors.StorageFull(path=str(target)) from error
            raise errors.StorageFailed(path=str(source), problem=str(error)) from error
        except sqlite3.DatabaseError as error:
            raise errors.Corrupt(what=str(source), problem=str(error)) from error
    require_whole(target)
    with fsops.translated(target):
        fd = fsops.open_for_writing(target)
        try:
            fsops.fsync(fd)
        finally:
            os.close(fd)


def discard(target: pathlib.Path) -> None:
    """Remove a copy, whole or not, with what SQLite keeps beside it."""
    with fsops.translated(target):
        for suffix in _BESIDE:
            fsops.unlink(target.with_name(target.name + suffix), durable=False)


def require_whole(path: pathlib.Path) -> None:
    """Have SQLite check a database's structure and all references. Raises errors.Corrupt, errors.StorageFailed."""
    with _connected(path, "ro") as connection:
        try:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            loose = connection.execute("PRAGMA foreign_key_check").fetchone()
        except sqlite3.OperationalError as error:
            raise errors.StorageFailed(path=str(path), problem=str(error)) from error
        except sqlite3.DatabaseError as error:
            raise errors.Corrupt(what=str(path), problem=str(error)) from error
    if verdict != "ok":
        raise errors.Corrupt(what=str(path), problem=str(verdict))
    if loose is not None:
        raise errors.Corrupt(what=str(path), problem=f"a row of {loose[0]} refers to one that isn't there")


def revision(path: pathlib.Path) -> int:
    """Return the newest revision in a catalog; 0 if nothing has happened in it. Raises errors.Corrupt."""
    return _asked(path, "SELECT coalesce(max(revision), 0) FROM events")


def schema(path: pathlib.Path) -> int:
    """Return the number of a catalog's schema. Raises errors.Corrupt."""
    return _asked(path, "PRAGMA user_version")


def _asked(path: pathlib.Path, sql: str) -> int:
    with _connected(path, "ro") as connection:
        try:
            (found,) = connection.execute(sql).fetchone()
        except sqlite3.DatabaseError as error:
            raise errors.Corrupt(what=str(path), problem=str(error)) from error
    return int(found)


@contextmanager
def _connected(path: pathlib.Path, mode: str) -> Iterator[sqlite3.Connection]:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise errors.StorageFailed(path=str(path), problem=str(error)) from error
    try:
        yield connection
    finally:
        connection.close()
