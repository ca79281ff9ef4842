"""The catalog alone: is its file whole, do its rows agree with one another?

What is looked for here holds after each transaction, so it may be asked beside a daemon that runs.
"""

import sqlite3
from collections.abc import Iterator
from typing import Final

from snapd.service.inspection import findings

_MOST_PROBLEMS: Final = 100
"""Lines of SQLite's own check that are told."""

_INVARIANTS: Final = (
    (
        "volume {0} has no head layer, though nothing is under way",
        "SELECT v.uid FROM volumes v LEFT JOIN layers l ON l.uid = v.head_layer"
        " WHERE v.activity = '' AND l.state IS NOT 'HEAD'",
    ),
    (
        "layer {0} is the head of no volume",
        "SELECT uid FROM layers WHERE state = 'HEAD' AND uid NOT IN"
        " (SELECT head_layer FROM volumes WHERE head_layer IS NOT NULL)",
    ),
    (
        "snapshot {0} is neither archived nor on primary storage",
        "SELECT s.uid FROM snapshots s JOIN points p ON p.uid = s.point LEFT JOIN layers l ON l.uid = p.layer"
        " WHERE s.archive_state != 'ARCHIVED' AND s.state NOT IN ('DESTROYING', 'FAILED') AND l.state IS NOT 'FROZEN'"
        " AND NOT EXISTS (SELECT 1 FROM intents WHERE subject = s.uid)",
    ),
    (
        "layer {0} is being made or folded, though nothing is under way",
        "SELECT l.uid FROM layers l WHERE state IN ('CREATING', 'FOLDING')"
        " AND NOT EXISTS (SELECT 1 FROM intents i WHERE instr(i.payload, l.uid) OR i.subject = l.uid)",
    ),
    (
        "volume {0} is busy, though nothing is under way",
        "SELECT uid FROM volumes v WHERE activity NOT IN ('', 'FAILED')"
        " AND NOT EXISTS (SELECT 1 FROM intents WHERE subject = v.uid)",
    ),
    (
        "attachment {0} is coming or going, though nothing is under way",
        "SELECT a.uid FROM attachments a WHERE state IN ('ATTACHING', 'DETACHING')"
        " AND NOT EXISTS (SELECT 1 FROM intents i WHERE instr(i.payload, a.uid))",
    ),
    (
        "attachment {0} is of a snapshot that isn't there",
        "SELECT uid FROM attachments WHERE snapshot_uid NOT IN (SELECT uid FROM snapshots)",
    ),
    (
        "storage daemon {0} serves nothing",
        "SELECT uid FROM storage_daemons WHERE uid NOT IN (SELECT storage_daemon FROM attachments)",
    ),
    (
        "an upload for volume {0} has no intent",
        "SELECT volume_uid FROM uploads WHERE volume_uid NOT IN (SELECT subject FROM intents)",
    ),
)
"""(sentence, query for the uids that it is true of)"""


def look(connection: sqlite3.Connection) -> Iterator[findings.Finding]:
    """Yield what is wrong with the catalog, its file first: if that is damaged, rows aren't looked at."""
    damaged = False
    for problem in _damage(connection):
        damaged = True
        yield findings.Finding(findings.Kind.CATALOG_DAMAGED, "catalog", problem)
    if damaged:
        return
    for row in connection.execute("PRAGMA foreign_key_check").fetchmany(_MOST_PROBLEMS):
        problem = f"a row of {row[0]} names one of {row[2]} that isn't there"
        yield findings.Finding(findings.Kind.CATALOG_INCONSISTENT, "catalog", problem)
    for sentence, query in _INVARIANTS:
        for row in connection.execute(query):
            yield findings.Finding(findings.Kind.CATALOG_INCONSISTENT, row[0], sentence.format(row[0]))


def _damage(connection: sqlite3.Connection) -> Iterator[str]:
    try:
        for row in connection.execute(f"PRAGMA integrity_check({_MOST_PROBLEMS})"):
            if row[0] != "ok":
                yield row[0]
    except sqlite3.DatabaseError as error:
        yield str(error)
