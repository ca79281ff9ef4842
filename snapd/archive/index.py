"""The local index: which pack holds a blob of which name. A cache in an SQLite file, rebuilt from the packs.

It may lack what the store has, and `synchronous=NORMAL` may lose its last transactions with the power; the comparison
with the store at each process's first use of an environment (`reconcile`) makes up for both. Only the beginning of a
name is kept, and no place: who gets a hit looks it up in the pack's own, checksummed index.
"""

import dataclasses
import datetime
import enum
import pathlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from snapd import errors, fsops
from snapd.archive import filter as filters
from snapd.archive import layout

_SCHEMA_VERSION: Final = 2
_PREFIX: Final = filters.PREFIX
_CHUNK: Final = 1 << 16
_BUSY_S: Final = 30.0

_SCHEMA: Final = """
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,      -- 'schema', 'repository' (its uid), 'host'
    value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE packs (
    number      INTEGER PRIMARY KEY,  -- short for the id, in this file only
    id          BLOB NOT NULL UNIQUE, -- 16 bytes
    environment TEXT NOT NULL,        -- the domain of deduplication
    size_bytes  INTEGER NOT NULL,     -- of the object
    blobs       INTEGER NOT NULL,     -- how many it holds
    state       INTEGER NOT NULL,     -- a State
    checked_us  INTEGER               -- when it was last read whole and found good, since 1970; NULL: not known
);
CREATE INDEX packs_of_environment ON packs (environment);
CREATE TABLE blobs (
    prefix BLOB NOT NULL,             -- the first 16 bytes of the name
    pack   INTEGER NOT NULL,          -- packs.number
    PRIMARY KEY (prefix, pack)
) WITHOUT ROWID;
CREATE INDEX blobs_of_pack ON blobs (pack);
"""


FIND: Final = """
SELECT packs.id FROM blobs CROSS JOIN packs ON packs.number = blobs.pack
WHERE blobs.prefix = ? AND packs.environment = ? AND packs.state <> ? ORDER BY blobs.pack DESC
"""
"""CROSS JOIN settles the order of the loops: left to itself, SQLite looks through all packs of the environment."""


class State(enum.IntEnum):
    """What is known of a pack."""

    FOUND = 0
    """It is there. It has to be proven before a manifest may refer to it."""
    PROVEN = 1
    """It was read back from the store and each of its blobs checked."""
    DAMAGED = 2
    """It isn't what was written, or is missing. Never a hit."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pack:
    """A pack as the index knows it."""

    pack_id: bytes
    size_bytes: int
    state: State
    blobs: int = 0
    checked: datetime.datetime | None = None
    """When it was last read whole and found good, as far as this index remembers."""


class Index:
    """The index file. Thread-safe: one connection, one lock, short transactions."""

    def __init__(self, path: pathlib.Path, host: str) -> None:
        """Open the file, or start afresh if it is missing, unreadable, of another schema or of another host.

        Raises errors.StorageFailed, errors.StorageFull.
        """
        self.path = path
        self._lock = threading.RLock()
        self._host = host
        self.generation = 0
        """Rises when the file had to be made anew: what was reconciled before has to be again."""
        self._repository_uid: str | None = None
        self._filters: dict[str, filters.Filter] = {}
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        with fsops.translated(self.path.parent):
            fsops.make_directory(self.path.parent)
        try:
            connection = self._connect()
            try:
                meta = dict(connection.execute("SELECT name, value FROM meta"))
            except sqlite3.DatabaseError:
                connection.close()
                raise
            if meta.get("schema") == str(_SCHEMA_VERSION) and meta.get("host") == self._host:
                return connection
            connection.close()
        except sqlite3.DatabaseError:
            # No table, no database, or damage: it is a cache, so in each case it is made anew.
            pass
        with self._errors():
            return self._create()

    def _create(self) -> sqlite3.Connection:
        with fsops.translated(self.path):
            for suffix in ("", "-wal", "-shm"):
                fsops.unlink(self.path.with_name(self.path.name + suffix), durable=False)
        connection = self._connect()
        connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        rows = [("schema", str(_SCHEMA_VERSION)), ("host", self._host)]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def _start_afresh(self) -> None:
        self._filters.clear()
        self._connection.close()
        self._connection = self._create()
        if self._repository_uid is not None:
            self._connection.execute("INSERT INTO meta VALUES ('repository', ?)", [self._repository_uid])
        self.generation += 1

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # --- whose it is ---

    def repository_uid(self) -> str | None:
        """Return the uid of the repository that the index describes, or None if it is new."""
        with self._errors():
            row = self._connection.execute("SELECT value FROM meta WHERE name = 'repository'").fetchone()
        return None if row is None else str(row[0])

    def adopt(self, repository_uid: str) -> None:
        """Describe this repository from now on, and forget everything if it was another."""
        with self._transaction():
            if self.repository_uid() != repository_uid:
                self._filters.clear()
                self._connection.execute("DELETE FROM blobs")
                self._connection.execute("DELETE FROM packs")
                self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('repository', ?)", [repository_uid])
        self._repository_uid = repository_uid

    # --- packs ---

    def packs(self, environment_uid: str) -> dict[bytes, Pack]:
        """Return the packs of an environment by their ids."""
        with self._errors():
            rows = self._connection.execute(f"{_PACKS} WHERE environment = ?", [environment_uid]).fetchall()
        return {pack.pack_id: pack for pack in map(_convert, rows)}

    def damaged(self, environment_uid: str) -> set[bytes]:
        """Return the ids of an environment's packs that are known to be damaged or missing."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT id FROM packs WHERE environment = ? AND state = ?", [environment_uid, int(State.DAMAGED)]
            ).fetchall()
        return {pack_id for (pack_id,) in rows}

    def pack(self, pack_id: bytes) -> Pack | None:
        """Return one pack, or None if the index doesn't know it."""
        with self._errors():
            row = self._connection.execute(f"{_PACKS} WHERE id = ?", [pack_id]).fetchone()
        return None if row is None else _convert(row)

    def add(self, environment_uid: str, pack: Pack, names: Iterable[bytes]) -> None:
        """Offer a durable pack's blobs. One that is known is described anew. `pack.blobs` is counted here."""
        rows = [name[:_PREFIX] for name in names]
        with self._transaction():
            self._forget(pack.pack_id)
            cursor = self._connection.execute(
                "INSERT INTO packs (id, environment, size_bytes, blobs, state, checked_us) VALUES (?, ?, ?, ?, ?, ?)",
                [pack.pack_id, environment_uid, pack.size_bytes, len(rows), int(pack.state), _to_us(pack.checked)],
            )
            number = cursor.lastrowid
            self._connection.executemany(
                "INSERT OR IGNORE INTO blobs VALUES (?, ?)", [(prefix, number) for prefix in rows]
            )
            known = self._filters.get(environment_uid)
            if known is not None:
                known.add(b"".join(rows))
                if known.count > known.capacity:
                    # It would let more and more through; the next question makes a larger one.
                    del self._filters[environment_uid]

    def mark(self, pack_id: bytes, state: State, checked: datetime.datetime | None = None) -> None:
        """Note what was learned of a pack, and when it was checked if it was. One that isn't known stays unknown."""
        with self._transaction():
            self._connection.execute(
                "UPDATE packs SET state = ?, checked_us = coalesce(?, checked_us) WHERE id = ?",
                [int(state), _to_us(checked), pack_id],
            )

    def forget(self, pack_id: bytes) -> None:
        """Offer nothing of a pack any more."""
        with self._transaction():
            self._forget(pack_id)

    def _forget(self, pack_id: bytes) -> None:
        row = self._connection.execute("SELECT number FROM packs WHERE id = ?", [pack_id]).fetchone()
        if row is not None:
            self._connection.execute("DELETE FROM blobs WHERE pack = ?", row)
            self._connection.execute("DELETE FROM packs WHERE number = ?", row)

    # --- blobs ---

    def find(self, environment_uid: str, name: bytes) -> list[bytes]:
        """Return the ids of the undamaged packs of an environment that seem to hold a blob, newest first."""
        known = self._filters.get(environment_uid) or self._make_filter(environment_uid)
        if known is not None and not known.may_hold(name):
            return []
        with self._errors():
            rows = self._connection.execute(FIND, [name[:_PREFIX], environment_uid, int(State.DAMAGED)]).fetchall()
        return [pack_id for (pack_id,) in rows]

    def _make_filter(self, environment_uid: str) -> filters.Filter | None:
        """Return a filter of an environment's names, unless there are too many for one."""
        with self._errors():
            (count,) = self._connection.execute(
                "SELECT coalesce(sum(blobs), 0) FROM packs WHERE environment = ?", [environment_uid]
            ).fetchone()
            if count > filters.LARGEST:
                return None
            made = filters.Filter(count)
            rows = self._connection.execute(
                "SELECT blobs.prefix FROM packs CROSS JOIN blobs ON blobs.pack = packs.number"
                " WHERE packs.environment = ?",
                [environment_uid],
            )
            while chunk := rows.fetchmany(_CHUNK):
                made.add(b"".join(prefix for (prefix,) in chunk))
            self._filters[environment_uid] = made
            return made

    def reconcile(self, environment_uid: str, stored: dict[bytes, int]) -> list[bytes]:
        """Forget an environment's packs that aren't in `stored` (lengths by id) and return those that are unknown."""
        known = self.packs(environment_uid)
        for pack_id, pack in known.items():
            if stored.get(pack_id) != pack.size_bytes:
                self.forget(pack_id)
        return [
            pack_id
            for pack_id, size_bytes in stored.items()
            if pack_id not in known or known[pack_id].size_bytes != size_bytes
        ]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Hold the lock, and translate SQLite's errors."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", None)
                if code == sqlite3.SQLITE_FULL:
                    raise errors.StorageFull(path=str(self.path)) from error
                if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    self._start_afresh()
                raise errors.StorageFailed(path=str(self.path), problem=str(error)) from error


_PACKS: Final = "SELECT id, size_bytes, state, blobs, checked_us FROM packs"
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)


def _convert(row: tuple[bytes, int, int, int, int | None]) -> Pack:
    pack_id, size_bytes, state, blobs, checked_us = row
    checked = None if checked_us is None else _EPOCH + checked_us * _MICROSECOND
    return Pack(pack_id, size_bytes, State(state), blobs, checked)


def _to_us(moment: datetime.datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def pack_ids(listing: Iterable[tuple[str, int]]) -> dict[bytes, int]:
    """Return the lengths of packs by their ids, from a listing of keys."""
    return {found: size_bytes for key, size_bytes in listing if (found := layout.pack_id(key)) is not None}
