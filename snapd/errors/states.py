"""States that have to change first, and requests that came too late."""

import dataclasses

from snapd.errors.tree import Aborted, Cancelled, FailedPrecondition


@dataclasses.dataclass(eq=False, kw_only=True)
class WrongState(FailedPrecondition):
    """The resource is in a state in which the method isn't allowed."""

    reason = "WRONG_STATE"
    summary = "{name} is {state}: {method} needs it to be {allowed}"
    advice = "Wait for the running operation of the resource to end, then retry."
    name: str
    state: str
    method: str
    allowed: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SnapshotNotArchived(FailedPrecondition):
    """What was asked for is about a snapshot's archive copy, and it has none yet."""

    reason = "SNAPSHOT_NOT_ARCHIVED"
    summary = "{name} is not in the archive"
    advice = "Archive it first: ArchiveSnapshot."
    name: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageBusy(FailedPrecondition):
    """Another program, or another part of this one, has an image file open in a way that excludes the caller."""

    reason = "IMAGE_BUSY"
    summary = "{name} is in use: {use}"
    advice = "Close it in the other program, such as a virtual machine or an image tool, then retry."
    name: str
    use: str


@dataclasses.dataclass(eq=False, kw_only=True)
class DataBeyondEnd(FailedPrecondition):
    """A disk isn't made smaller while there is data in the part that would go."""

    reason = "DATA_BEYOND_END"
    summary = "{name} holds data beyond {size_bytes} bytes"
    advice = "Shrink the file system first and discard what lies behind it, or force it and lose that data."
    name: str
    size_bytes: int


@dataclasses.dataclass(eq=False, kw_only=True)
class EnvironmentNotEmpty(FailedPrecondition):
    """An environment that still holds something can't be deleted."""

    reason = "ENVIRONMENT_NOT_EMPTY"
    summary = "{name} isn't empty: volumes: {volumes}, snapshots: {snapshots}"
    advice = "Delete its volumes and snapshots first."
    name: str
    volumes: int
    snapshots: int


@dataclasses.dataclass(eq=False, kw_only=True)
class UploadOffset(FailedPrecondition):
    """An upload that doesn't continue where the last one ended."""

    reason = "UPLOAD_OFFSET"
    summary = "the upload of {name} continues at offset {durable_offset}, not {offset}"
    advice = "Send from durable_offset on."
    name: str
    offset: int
    durable_offset: int


@dataclasses.dataclass(eq=False, kw_only=True)
class UploadIncomplete(FailedPrecondition):
    """An upload whose stream ended before the image was whole. What arrived is kept for a while."""

    reason = "UPLOAD_INCOMPLETE"
    summary = "the upload of {name} ended at offset {durable_offset} of {size_bytes}"
    advice = "Resume from durable_offset with the same request_id, or delete the volume."
    name: str
    durable_offset: int
    size_bytes: int


@dataclasses.dataclass(eq=False, kw_only=True)
class ArchiveClaimed(FailedPrecondition):
    """The part of the archive that this host is to write belongs to another daemon."""

    reason = "ARCHIVE_CLAIMED"
    summary = "another daemon writes the archive as host {host} (epoch {epoch}, last seen {renewed})"
    advice = (
        "Give this daemon an archive.host of its own. If it takes the place of one that is gone for good, "
        "wait until the lease of that one is over, and adopt what it left: snapd-storage archive adopt."
    )
    host: str
    epoch: int
    renewed: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ArchiveClaimLost(FailedPrecondition):
    """Another daemon has adopted this host's part of the archive."""

    reason = "ARCHIVE_CLAIM_LOST"
    summary = "another daemon has taken over the archive's host {host}: epoch {epoch} is over"
    advice = (
        "Find out which daemon took over. This one archives nothing any more; what it has on primary storage is whole. "
        "Give it another archive.host to go on, or retire it."
    )
    host: str
    epoch: int


@dataclasses.dataclass(eq=False, kw_only=True)
class ArchiveKeyMissing(FailedPrecondition):
    """Something in the archive is encrypted with a key that this daemon wasn't given."""

    reason = "ARCHIVE_KEY_MISSING"
    summary = "{what} is encrypted with key {key}, which isn't among the configured ones"
    advice = "Add the key to archive.key_file. Without it the archive can only be listed."
    what: str
    key: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ArchiveNotEncrypted(FailedPrecondition):
    """A key is configured for an archive that was made without encryption."""

    reason = "ARCHIVE_NOT_ENCRYPTED"
    summary = "a key is configured, but the archive was made without encryption"
    advice = "Remove archive.key_file, or begin a new archive: whether it is encrypted is settled when it is made."


@dataclasses.dataclass(eq=False, kw_only=True)
class CatalogBehind(FailedPrecondition):
    """The archive has a backup of a later state of the catalog than this one."""

    reason = "CATALOG_BEHIND"
    summary = "the catalog is at revision {revision}, and the archive has a backup of revision {backup_revision}"
    advice = (
        "An older catalog was put in the newer one's place, or lost what it was told last. Stop the daemon and run"
        " `snapd-storage rebuild-catalog --replace`; if this catalog is what counts, with a copy of it as --backup."
    )
    revision: int
    backup_revision: int


@dataclasses.dataclass(eq=False, kw_only=True)
class EtagMismatch(Aborted):
    """The resource changed since the caller read it."""

    reason = "ETAG_MISMATCH"
    summary = "{name} has changed since it was read"
    advice = "Read it again, decide again, retry."
    name: str


@dataclasses.dataclass(eq=False, kw_only=True)
class OperationCancelled(Cancelled):
    """The work was stopped because somebody asked for it."""

    reason = "OPERATION_CANCELLED"
    summary = "{name} was cancelled"
    advice = "Start it again if it is still wanted."
    name: str
