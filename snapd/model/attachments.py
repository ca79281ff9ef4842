"""Volumes and snapshots that are lent to guests, and the storage daemons that serve them."""

import dataclasses
import datetime
import enum


class AttachmentState(enum.StrEnum):
    """Who has the files of an attached volume."""

    ATTACHING = "ATTACHING"
    """An open intent brings its export up."""
    ATTACHED = "ATTACHED"
    """A guest may be writing: only the storage daemon knows what the head holds."""
    STALLED = "STALLED"
    """As ATTACHED, but its storage daemon doesn't answer. It is filled in and never stored."""
    DETACHING = "DETACHING"
    """An open intent takes its export down."""
    CRASHED = "CRASHED"
    """Its storage daemon is gone: nobody has its files."""


class AttachmentWay(enum.StrEnum):
    """How an instance comes to its disk."""

    NBD = "NBD"
    VHOST_USER_BLK = "VHOST_USER_BLK"
    """Rings in memory that the hypervisor shares with the storage daemon."""


class Launcher(enum.StrEnum):
    """Who starts storage daemons, and finds them again."""

    DIRECT = "DIRECT"
    SYSTEMD = "SYSTEMD"


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a guest may do in a second; 0 stands for all that it can."""

    iops: int = 0
    bytes_per_second: int = 0


UNLIMITED = Limits()
"""Whatever it can."""


@dataclasses.dataclass(frozen=True, slots=True)
class StorageDaemon:
    """A process that serves a group of disks, or the place that it had."""

    uid: str
    instance: str
    """Whose volumes it serves, or '' if it serves the only disk of nobody."""
    environment_uid: str
    launcher: Launcher
    generation: int
    """How often it was started."""
    boot: str
    """Boot id of the kernel that ran it; '' until it was started."""
    pid: int | None
    start_ticks: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Attachment:
    """A disk that is lent to an instance."""

    uid: str
    volume_uid: str | None
    """None: it is a snapshot's."""
    snapshot_uid: str | None
    storage_daemon: str
    """Uid of the one that serves it, or did."""
    way: AttachmentWay
    state: AttachmentState
    read_only: bool
    writethrough: bool
    """No write is answered before it is durable, so the death of the storage daemon loses none."""
    limits: Limits
    top: str | None
    """Uid of a snapshot's layer; None: it is a volume's, which has its head."""
    created: datetime.datetime

    @property
    def disk(self) -> str:
        """Uid of the volume or of the snapshot."""
        uid = self.volume_uid or self.snapshot_uid
        assert uid is not None
        return uid
