"""Connections and transactions of the catalog's SQLite database.

One connection writes, behind a mutex; every thread that reads has a read-only one of its own, which WAL never blocks. A
transaction is durable when it returns (`synchronous=FULL`). Knows nothing of what the tables mean.
"""

import datetime
import pathlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from snapd import errors
from snapd.catalog import migrations

Value = str | int | float | bytes | None
Reader = Callable[[], sqlite3.Connection]
"""Gives a connection that sees what was committed before the call."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_BUSY_TIMEOUT_S = 10.0
_ANY_READ = "PRAGMA user_version"


def to_us(moment: datetime.datetime) -> int:
    """Return microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime.datetime:
    """Return the UTC time that many microseconds after the start of 1970."""
    return _EPOCH + datetime.timedelta(microseconds=microseconds)


def optional_us(moment: datetime.datetime | None) -> int | None:
    """Return to_us of a time that may be missing."""
    return None if moment is None else to_us(moment)


def optional_time(microseconds: int | None) -> datetime.datetime | None:
    """Return from_us of a time that may be missing."""
    return None if microseconds is None else from_us(microseconds)


@contextmanager
def looked_into(path: pathlib.Path) -> Iterator[sqlite3.Connection]:
    """Open a database of the present schema to be read only, for the length of a block. Nothing is brought up to date.

    Raises errors.StorageFailed, also if it isn't there; errors.SchemaTooNew, errors.SchemaTooOld, errors.Corrupt.
    """
    with opened_to_read(path) as connection:
        try:
            migrations.require_present(connection, str(path))
        except sqlite3.DatabaseError as error:
            raise errors.Corrupt(what=str(path), problem=str(error)) from error
        yield connection


@contextmanager
def opened_to_read(path: pathlib.Path) -> Iterator[sqlite3.Connection]:
    """Open a database of whatever schema to be read only, for the length of a block. Raises errors.StorageFailed.

    A transaction that a kill cut off before there was a write-ahead log is rolled back first: nobody reads it before.
    """
    try:
        connection = _connect(path, "ro")
        if _is_cut_off(connection):
            connection.close()
            with closing(_connect(path, "rw")) as writer:
                writer.execute(_ANY_READ)
            connection = _connect(path, "ro")
    except sqlite3.OperationalError as error:
        raise errors.StorageFailed(path=str(path), problem=str(error)) from error
    try:
        connection.row_factory = sqlite3.Row
        yield connection
    finally:
        connection.close()


def _connect(path: pathlib.Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode={mode}", uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)


def _is_cut_off(connection: sqlite3.Connection) -> bool:
    """Say whether a rollback journal has to be played back, which who only reads can't (sqlite.org/rescode.html)."""
    try:
        connection.execute(_ANY_READ)
    except sqlite3.DatabaseError as error:
        # Any other error is met again by who reads on, and told by him.
        return error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK
    return False


class Transaction:
    """A write transaction: the connection, and the revision that its last event has."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.revision = 0

    def execute(self, sql: str, values: Mapping[str, Value] | tuple[Value, ...] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self.connection.execute(sql, values)


Listener = Callable[[int], None]


class Catalog:
    """The open database."""

    def __init__(self, path: pathlib.Path) -> None:
        """Open or create the database and bring its schema up to date.

        Raises errors.SchemaTooNew, errors.Corrupt, errors.StorageFailed.
        """
        self.path = path
        self._mutex = threading.RLock()
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._listeners: list[Listener] = []
        with self._translated():
            self._writer = self._connect(f"file:{path}?mode=rwc")
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute("PRAGMA synchronous = FULL")
            migrations.migrate(self._writer, str(path))

    def _connect(self, uri: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_S
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise errors.StorageFull(path=str(self.path)) from error
            raise errors.StorageFailed(path=str(self.path), problem=str(error)) from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise
            raise errors.Corrupt(what=str(self.path), problem=str(error)) from error

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Write: all of the block becomes durable together, or none of it. Not re-entrant.

        Listeners hear of the newest revision after the commit, in this thread and outside of the mutex.
        """
        with self._mutex, self._translated():
            self._writer.execute("BEGIN IMMEDIATE")
            tx = Transaction(self._writer)
            try:
                yield tx
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        if tx.revision:
            for listener in self._listeners:
                listener(tx.revision)

    def reader(self) -> sqlite3.Connection:
        """Return this thread's read-only connection. What was committed before the call is seen."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with self._translated():
                connection = self._connect(f"file:{self.path}?mode=ro")
                connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
            with self._mutex:
                self._readers.append(connection)
        return connection

    def subscribe(self, listener: Listener) -> None:
        """Call listener with the newest revision after each commit that has an event. It must not block."""
        self._listeners.append(listener)

    def close(self) -> None:
        """Close every connection; none may be in use."""
        with self._mutex:
            for connection in self._readers:
                connection.close()
            self._readers.clear()
            self._writer.close()


def placeholders(columns: Mapping[str, Any]) -> str:
    """Return '(a, b) VALUES (:a, :b)' for an INSERT of these columns."""
    return f"({', '.join(columns)}) VALUES ({', '.join(':' + column for column in columns)})"


def upsert(columns: Mapping[str, Any]) -> str:
    """Return the clause that makes an INSERT replace the row with the same uid."""
    assignments = ", ".join(f"{column} = excluded.{column}" for column in columns if column != "uid")
    return f"ON CONFLICT (uid) DO UPDATE SET {assignments}"
