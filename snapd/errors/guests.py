"""Volumes that guests use, and the storage daemons that serve them."""

import dataclasses

from snapd.errors.tree import FailedPrecondition, Unavailable


@dataclasses.dataclass(eq=False, kw_only=True)
class StorageDaemonMissing(FailedPrecondition):
    """QEMU's storage daemon, which serves volumes to guests, isn't installed, or lacks what is needed."""

    reason = "STORAGE_DAEMON_MISSING"
    summary = "volumes can't be attached: {problem}"
    advice = "Install qemu-storage-daemon, 7.2 or newer (on Debian 12 it is in qemu-system-common), then retry."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ExportsUnusable(FailedPrecondition):
    """Sockets for hypervisors can't be made in the folder that is configured for them."""

    reason = "EXPORTS_UNUSABLE"
    summary = "volumes can't be attached: {problem}"
    advice = "Set live.exports to a folder with a shorter path, and restart the daemon."
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


@dataclasses.dataclass(eq=False, kw_only=True)
class VolumeAttached(FailedPrecondition):
    """A guest may be writing the volume, and what was asked for needs it to itself."""

    reason = "VOLUME_ATTACHED"
    summary = "{name} is attached: a guest may be writing it"
    advice = "Detach it first: DetachVolume. It has to stay detached until the call has ended."
    name: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SnapshotAttached(FailedPrecondition):
    """Somebody looks into the snapshot."""

    reason = "SNAPSHOT_ATTACHED"
    summary = "{name} is attached: somebody looks into it"
    advice = "Detach it first: DetachSnapshot."
    name: str
