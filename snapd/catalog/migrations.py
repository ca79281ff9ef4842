"""The catalog's schema through time: an ordered list of steps, each run once, in its own transaction.

The schema's number is SQLite's user_version. A database with a higher number than the list is long was written by a
newer release and is refused.
"""

import sqlite3

from snapd import errors
from snapd.catalog import schema

STEPS: tuple[str, ...] = (
    schema.TABLES,
    schema.QUEUE,
    schema.PAUSES,
    schema.FIGURES,
    schema.CHECKS,
    schema.UPKEEP,
    schema.RECOVERED,
    schema.LIVE,
)
"""Step n takes schema n to schema n + 1. Released steps are never changed."""


def migrate(connection: sqlite3.Connection, path: str) -> int:
    """Bring a database to the present schema and return how many steps that took. Raises errors.SchemaTooNew."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise errors.SchemaTooNew(path=path, found=version, known=len(STEPS))
    for number, step in enumerate(STEPS[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{step}\nPRAGMA user_version = {number};\nCOMMIT;")
    return len(STEPS) - int(version)


def require_present(connection: sqlite3.Connection, path: str) -> None:
    """Require that a database has the present schema. Raises errors.SchemaTooNew, errors.SchemaTooOld."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise errors.SchemaTooNew(path=path, found=version, known=len(STEPS))
    if version < len(STEPS):
        raise errors.SchemaTooOld(path=path, found=version, needed=len(STEPS))
