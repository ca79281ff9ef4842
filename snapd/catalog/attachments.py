"""The table of attachments: which volumes and snapshots are lent, to be served by which storage daemon."""

import dataclasses
import json
import sqlite3

from snapd import model
from snapd.catalog import db


def _convert(row: sqlite3.Row) -> model.Attachment:
    return model.Attachment(
        uid=row["uid"],
        volume_uid=row["volume_uid"],
        snapshot_uid=row["snapshot_uid"],
        storage_daemon=row["storage_daemon"],
        way=model.AttachmentWay(row["way"]),
        state=model.AttachmentState(row["state"]),
        read_only=bool(row["read_only"]),
        writethrough=bool(row["writethrough"]),
        limits=model.Limits(**json.loads(row["limits"])),
        top=row["top"],
        created=db.from_us(row["created_us"]),
    )


def of_disk(connection: sqlite3.Connection, uid: str) -> model.Attachment | None:
    """Return the attachment of a volume or a snapshot; None: it is detached."""
    row = connection.execute(
        "SELECT * FROM attachments WHERE volume_uid = :uid OR snapshot_uid = :uid", {"uid": uid}
    ).fetchone()
    return None if row is None else _convert(row)


def of_head(connection: sqlite3.Connection, layer: str) -> model.Attachment | None:
    """Return the attachment of the volume whose head is a layer, if it has one."""
    row = connection.execute(
        "SELECT a.* FROM volumes v JOIN attachments a ON a.volume_uid = v.uid WHERE v.head_layer = ?", (layer,)
    ).fetchone()
    return None if row is None else _convert(row)


def by_uid(connection: sqlite3.Connection, uid: str) -> model.Attachment | None:
    """Return the attachment with a uid."""
    row = connection.execute("SELECT * FROM attachments WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else _convert(row)


def every(connection: sqlite3.Connection) -> list[model.Attachment]:
    """Return all attachments."""
    return [_convert(row) for row in connection.execute("SELECT * FROM attachments ORDER BY uid")]


def of_daemon(connection: sqlite3.Connection, daemon_uid: str) -> list[model.Attachment]:
    """Return the attachments that a storage daemon serves, or served."""
    rows = connection.execute("SELECT * FROM attachments WHERE storage_daemon = ? ORDER BY uid", (daemon_uid,))
    return [_convert(row) for row in rows]


def put(tx: db.Transaction, attachment: model.Attachment) -> None:
    """Insert an attachment, or store it in the place of the one with its uid."""
    columns: dict[str, db.Value] = {
        "uid": attachment.uid,
        "volume_uid": attachment.volume_uid,
        "snapshot_uid": attachment.snapshot_uid,
        "storage_daemon": attachment.storage_daemon,
        "way": attachment.way,
        "state": attachment.state,
        "read_only": int(attachment.read_only),
        "writethrough": int(attachment.writethrough),
        "limits": json.dumps(dataclasses.asdict(attachment.limits)),
        "top": attachment.top,
        "created_us": db.to_us(attachment.created),
    }
    tx.execute(f"INSERT INTO attachments {db.placeholders(columns)} {db.upsert(columns)}", columns)


def set_state(tx: db.Transaction, uid: str, state: model.AttachmentState) -> None:
    """Move an attachment to another state."""
    tx.execute("UPDATE attachments SET state = ? WHERE uid = ?", (state, uid))


def remove(tx: db.Transaction, uid: str) -> None:
    """Forget an attachment: what it lent is free again."""
    tx.execute("DELETE FROM attachments WHERE uid = ?", (uid,))
