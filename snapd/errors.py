"""The tree of errors that the daemon raises, with typed fields and stable reasons.

    SnapdError
    ├── InvalidArgument      the request can never succeed as it stands
    ├── NotFound             what it names isn't there, or not for this caller
    ├── AlreadyExists        what it would make is there
    ├── FailedPrecondition   the state of something has to change first
    ├── ResourceExhausted    a limit, a quota or a store is full
    ├── Aborted              somebody else was faster; read again and retry
    ├── OutOfRange           past the end of something
    ├── Cancelled            the caller asked for the work to stop
    ├── Unavailable          for now; retry with back-off
    ├── DataLoss             stored bytes are not what was written
    └── StartupError         the daemon can't start; seen by operators only

Every concrete class has a `reason` (stable, UPPER_SNAKE, part of the API), a `summary` (a template over its fields) and
an `advice` (what the caller does about it). Nothing here knows of status codes: the RPC layer maps the branches above.
"""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(eq=False, kw_only=True)
class SnapdError(Exception):
    """Root of the tree: something went wrong that has no better name."""

    reason: ClassVar[str] = "INTERNAL"
    summary: ClassVar[str] = "internal error"
    advice: ClassVar[str] = "Report it, with the daemon's log."

    def metadata(self) -> dict[str, str]:
        """Return every field of the error as text, by its name."""
        return {field.name: str(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def __str__(self) -> str:
        return self.summary.format(**self.metadata())


class InvalidArgument(SnapdError):
    """The request can never succeed as it stands."""


class FailedPrecondition(SnapdError):
    """The state of something has to change before the request can succeed."""


class ResourceExhausted(SnapdError):
    """A limit, a quota or a store is full."""


class Aborted(SnapdError):
    """Somebody else was faster."""


class Cancelled(SnapdError):
    """The caller asked for the work to stop."""


class Unavailable(SnapdError):
    """It can't be done for now."""


class DataLoss(SnapdError):
    """Stored bytes are not what was written."""


class StartupError(SnapdError):
    """The daemon can't start."""


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False, kw_only=True)
class InvalidField(InvalidArgument):
    """A field breaks its constraint."""

    reason = "INVALID_FIELD"
    summary = "{field}: {problem}"
    advice = "Correct the field; its comment in the proto states the constraint."
    field: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class InvalidFilter(InvalidArgument):
    """A list filter can't be read, or names a field that can't be filtered on."""

    reason = "INVALID_FILTER"
    summary = "filter: {problem}"
    advice = "Correct the filter; the List method's comment says which fields it takes."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class InvalidPageToken(InvalidArgument):
    """A page token that this list didn't hand out, or one handed out for other parameters."""

    reason = "INVALID_PAGE_TOKEN"
    summary = "page_token: {problem}"
    advice = "Start the listing again without a page token."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class RequestIdReused(InvalidArgument):
    """A request id that was used for a different request."""

    reason = "REQUEST_ID_REUSED"
    summary = "request_id {request_id} was used for a different request"
    advice = "Use a new UUID for each new request; repeat one only to retry the very same request."
    request_id: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SnapshotOfAnotherVolume(InvalidArgument):
    """A revert to a snapshot that was taken of a different volume."""

    reason = "SNAPSHOT_OF_ANOTHER_VOLUME"
    summary = "{snapshot} was not taken of {volume}"
    advice = "Choose a snapshot of this very volume, or create a new volume from the snapshot."
    snapshot: str
    volume: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ChecksumMismatch(InvalidArgument):
    """Uploaded bytes don't have the checksum that was sent with them."""

    reason = "CHECKSUM_MISMATCH"
    summary = "the chunk at offset {offset} has CRC-32C {actual_crc32c}, not {expected_crc32c}"
    advice = "Resume the upload from the last durable offset."
    offset: int
    expected_crc32c: int
    actual_crc32c: int


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageRefused(InvalidArgument):
    """An image that is not what its label says, or that asks for what an image may not have."""

    reason = "IMAGE_REFUSED"
    summary = "the image is refused: {problem}"
    advice = "Have `qemu-img convert -O qcow2` make a plain copy; docs/operations.md lists what is refused, and why."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class NotFound(SnapdError):
    """What the request names isn't there, or is not for this caller to see."""

    reason = "RESOURCE_NOT_FOUND"
    summary = "{resource_type} {name} does not exist"
    advice = "Check the name; list the parent to see what is there."
    resource_type: str
    name: str


@dataclasses.dataclass(eq=False, kw_only=True)
class AlreadyExists(SnapdError):
    """The id is taken."""

    reason = "RESOURCE_ALREADY_EXISTS"
    summary = "{resource_type} {name} exists already"
    advice = "Choose another id, or leave it out to have one generated."
    resource_type: str
    name: str


@dataclasses.dataclass(eq=False, kw_only=True)
class OutOfRange(SnapdError):
    """A range that reaches past the end of what it addresses."""

    reason = "BEYOND_END"
    summary = "{length} bytes at offset {offset} reach past the end of {name}, {size_bytes} bytes long"
    advice = "Read the resource again for its size."
    name: str
    offset: int
    length: int
    size_bytes: int


# --- states -----------------------------------------------------------------------------------------------------------


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


# --- limits and stores ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False, kw_only=True)
class PoolFull(ResourceExhausted):
    """Primary storage has no room for it above the configured reserve."""

    reason = "POOL_FULL"
    summary = "primary storage has {free_bytes} bytes free, at or below its low watermark of {watermark_bytes}"
    advice = "Delete volumes or rapid snapshots, archive rapid snapshots now, or add storage."
    free_bytes: int
    watermark_bytes: int


@dataclasses.dataclass(eq=False, kw_only=True)
class StorageFull(ResourceExhausted):
    """A file system answered that no space is left."""

    reason = "STORAGE_FULL"
    summary = "no space is left for {path}"
    advice = "Free space on that file system; nothing was changed."
    path: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ChainDepth(ResourceExhausted):
    """The volume has as many layers below it as are allowed."""

    reason = "CHAIN_DEPTH"
    summary = "{volume} stands on {depth} layers, the most that are allowed"
    advice = "Archive or delete some of its rapid snapshots, so that layers can be merged."
    volume: str
    depth: int


@dataclasses.dataclass(eq=False, kw_only=True)
class TooManyCalls(ResourceExhausted):
    """The caller has as many calls of this kind under way as one identity may."""

    reason = "TOO_MANY_CALLS"
    summary = "{limit} {kind} calls are under way, the most that one identity may have"
    advice = "Retry with back-off."
    kind: str
    limit: int


@dataclasses.dataclass(eq=False, kw_only=True)
class Draining(Unavailable):
    """The daemon is stopping."""

    reason = "DRAINING"
    summary = "the daemon is stopping"
    advice = "Retry with back-off; accepted work goes on after the restart."


@dataclasses.dataclass(eq=False, kw_only=True)
class ArchiveUnreachable(Unavailable):
    """The archive can't be read or written for now."""

    reason = "ARCHIVE_UNREACHABLE"
    summary = "the archive can't be reached: {problem}"
    advice = "Bring the store back; the work is retried with back-off."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ArchiveRefused(Unavailable):
    """The archive's store answers, and refuses what the daemon has to do there."""

    reason = "ARCHIVE_REFUSED"
    summary = "the archive's store refuses: {problem}"
    advice = "Check credentials, bucket, region and permissions; the work is retried with back-off."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class StorageFailed(Unavailable):
    """A file system call failed for a reason other than a lack of space."""

    reason = "STORAGE_FAILED"
    summary = "{path}: {problem}"
    advice = "Look at the host's log for the device; nothing acknowledged was lost."
    path: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class Corrupt(DataLoss):
    """A stored object is not what was written. Wrong bytes are never returned."""

    reason = "CORRUPT"
    summary = "{what} is damaged: {problem}"
    advice = "Restore from another snapshot; run a check to learn the extent of the damage."
    what: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SnapshotDamaged(DataLoss):
    """Part of what the archive has of a snapshot can't be read."""

    reason = "SNAPSHOT_DAMAGED"
    summary = "{name} is damaged: {damaged_bytes} bytes of it can't be read, at {ranges}"
    advice = (
        "Use another snapshot; what is whole of this one is saved by snapd-storage archive restore --salvage. "
        "The ranges are offset+length in bytes."
    )
    name: str
    damaged_bytes: int
    ranges: str


# --- starting ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False, kw_only=True)
class ConfigInvalid(StartupError):
    """The configuration file can't be used."""

    reason = "CONFIG_INVALID"
    summary = "{path}, line {line}: {problem}"
    advice = "Correct the line; docs/operations.md explains every key."
    path: str
    line: int
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class StateDirectoryBusy(StartupError):
    """Another daemon owns the state directory."""

    reason = "STATE_DIRECTORY_BUSY"
    summary = "{path} is in use by another daemon (pid {pid})"
    advice = "Stop the other daemon, or give this one a state directory of its own."
    path: str
    pid: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SocketBusy(StartupError):
    """Somebody listens on the socket path, or holds its lock."""

    reason = "SOCKET_BUSY"
    summary = "{path} is in use"
    advice = "Stop the server that listens there, or configure another path."
    path: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SocketPathUnusable(StartupError):
    """A socket path that is too long for the kernel, or is taken by something that is no socket."""

    reason = "SOCKET_PATH_UNUSABLE"
    summary = "{path}: {problem}"
    advice = "Configure a shorter path in a folder of the daemon's own."
    path: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SchemaTooOld(StartupError):
    """The catalog has yet to be brought up to date, which only the daemon does."""

    reason = "SCHEMA_TOO_OLD"
    summary = "{path} has schema {found}, and {needed} is needed"
    advice = "Start the daemon once: it brings the catalog up to date."
    path: str
    found: int
    needed: int


@dataclasses.dataclass(eq=False, kw_only=True)
class SchemaTooNew(StartupError):
    """The catalog was written by a newer release."""

    reason = "SCHEMA_TOO_NEW"
    summary = "{path} has schema {found}; this release knows schemas up to {known}"
    advice = "Start the newer release, or restore the catalog's backup from before the upgrade."
    path: str
    found: int
    known: int


# --- live volumes -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False, kw_only=True)
class StorageDaemonMissing(FailedPrecondition):
    """QEMU's storage daemon, which serves volumes to guests, isn't installed, or lacks what is needed."""

    reason = "STORAGE_DAEMON_MISSING"
    summary = "volumes can't be attached: {problem}"
    advice = "Install qemu-storage-daemon, 7.2 or newer (on Debian 12 it is in qemu-system-common), then retry."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class StorageDaemonGone(Unavailable):
    """The process that serves a group of attached volumes has ended, or has hung up."""

    reason = "STORAGE_DAEMON_GONE"
    summary = "the storage daemon {name} is gone: {problem}"
    advice = "Read the volume again: its attachment tells whether it was started anew or the guest has to be reset."
    name: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class StorageDaemonBusy(Unavailable):
    """The process that serves a group of attached volumes doesn't answer in time; what it was asked may yet be done."""

    reason = "STORAGE_DAEMON_BUSY"
    summary = "the storage daemon {name} doesn't answer: {problem}"
    advice = "Retry with back-off. Look whether its disk hangs, it is stopped, or another program has its QMP socket."
    name: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class StorageDaemonRefused(Unavailable):
    """The process that serves a group of attached volumes refused a command, or said what can't be understood."""

    reason = "STORAGE_DAEMON_REFUSED"
    summary = "the storage daemon {name} refused {command}: {problem}"
    advice = "Nothing was changed. Retry once what it names is mended; report it if it stays."
    name: str
    command: str
    problem: str
