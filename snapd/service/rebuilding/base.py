"""What the backup of a catalog says: its rows, and how far its numbers had come. Without one, all of it is empty."""

import dataclasses
import datetime
import sqlite3
from collections.abc import Mapping
from typing import Final

from snapd import model
from snapd.catalog import db, environments, layers, points, snapshots, volumes

_LONG_AGO: Final = datetime.datetime.fromtimestamp(0, datetime.UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    """The rows of a catalog from which a new one is made."""

    host: str = ""
    """Whose catalog it is, or '' if it doesn't say."""
    environments: Mapping[str, model.Environment] = dataclasses.field(default_factory=dict)
    """All of them by uid, and so are the others."""
    volumes: Mapping[str, model.Volume] = dataclasses.field(default_factory=dict)
    snapshots: Mapping[str, model.Snapshot] = dataclasses.field(default_factory=dict)
    points: Mapping[str, model.Point] = dataclasses.field(default_factory=dict)
    layers: Mapping[str, model.Layer] = dataclasses.field(default_factory=dict)
    generation: int = 0
    """The highest number of an intent that was ever given out in it."""
    revision: int = 0
    """The highest revision, likewise."""
    newest: datetime.datetime = _LONG_AGO
    """When anything changed last."""


EMPTY: Final = Base()


def read(connection: sqlite3.Connection) -> Base:
    """Return what a catalog of the present schema says."""
    host = connection.execute("SELECT host FROM identity").fetchone()
    (newest_us,) = connection.execute("SELECT coalesce(max(created_us), 0) FROM events").fetchone()
    return Base(
        host="" if host is None else host["host"],
        environments={row.uid: row for row in environments.every(connection)},
        volumes={row.uid: row for row in volumes.every(connection)},
        snapshots={row.uid: row for row in snapshots.every(connection)},
        points={row.uid: row for row in points.every(connection)},
        layers={row.uid: row for row in layers.every(connection)},
        generation=_given_out(connection, "intents"),
        revision=_given_out(connection, "events"),
        newest=db.from_us(newest_us),
    )


def _given_out(connection: sqlite3.Connection, table: str) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    return 0 if row is None else int(row["seq"])
