"""What the edge knows of each method beyond its messages: how long it may stay, and whether it changes anything."""

import dataclasses
import enum
from collections.abc import Mapping


class Kind(enum.StrEnum):
    """What a call costs while it is under way. Each kind is limited for itself, so that none locks out another."""

    UNARY = "unary"
    WAIT = "wait"
    """It holds nothing but its connection until something happens."""
    STREAM = "stream"
    """It moves the bytes of a disk, or reads through its files."""
    WATCH = "watch"
    """Health and reflection: like a wait, but it lives until the very end of a drain."""


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """A method of the API."""

    path: str
    """As gRPC has it: '/snapd.v1.VolumeService/GetVolume'."""
    kind: Kind
    changes: bool
    """It changes something, so it isn't begun during a drain, and the log tells of it."""

    @property
    def name(self) -> str:
        """The method's own name, without its service's."""
        return self.path.rsplit("/", 1)[1]

    @property
    def full_name(self) -> str:
        """The method with its service: 'snapd.v1.VolumeService/GetVolume'."""
        return self.path.removeprefix("/")


_READS = {
    "snapd.v1.EnvironmentService": ("GetEnvironment", "GetEnvironmentUsage", "ListEnvironments"),
    "snapd.v1.VolumeService": ("GetVolume", "GetVolumeChain", "ListVolumes"),
    "snapd.v1.SnapshotService": ("GetSnapshot", "ListSnapshots"),
    "snapd.v1.ArchiveService": ("ListArchiveHosts", "ListArchivedSnapshots"),
    "snapd.v1.SystemService": ("GetServerInfo", "GetCapacity", "GetRecoveryReport"),
    "google.longrunning.Operations": ("GetOperation", "ListOperations"),
}
_CHANGES = {
    "snapd.v1.EnvironmentService": ("CreateEnvironment", "UpdateEnvironment", "DeleteEnvironment"),
    "snapd.v1.VolumeService": (
        "CreateVolume",
        "UpdateVolume",
        "RevertVolume",
        "DeleteVolume",
        "AttachVolume",
        "DetachVolume",
        "SetVolumeLimits",
    ),
    "snapd.v1.SnapshotService": (
        "CreateSnapshot",
        "UpdateSnapshot",
        "DeleteSnapshot",
        "ArchiveSnapshot",
        "VerifySnapshot",
        "AttachSnapshot",
        "DetachSnapshot",
    ),
    "snapd.v1.SystemService": ("PauseWork", "ResumeWork", "Scrub", "Collect"),
    "google.longrunning.Operations": ("CancelOperation", "DeleteOperation"),
}
_OTHERS = (
    Method("/google.longrunning.Operations/WaitOperation", Kind.WAIT, changes=False),
    Method("/snapd.v1.VolumeService/ImportVolume", Kind.STREAM, changes=True),
    Method("/snapd.v1.VolumeService/WriteBlocks", Kind.STREAM, changes=True),
    Method("/snapd.v1.VolumeService/ExportVolume", Kind.STREAM, changes=False),
    Method("/snapd.v1.VolumeService/CheckVolume", Kind.STREAM, changes=True),
)


def _unary(methods: Mapping[str, tuple[str, ...]], *, changes: bool) -> list[Method]:
    return [Method(f"/{service}/{name}", Kind.UNARY, changes) for service, names in methods.items() for name in names]


ALL = (*_unary(_READS, changes=False), *_unary(_CHANGES, changes=True), *_OTHERS)
BY_PATH: Mapping[str, Method] = {method.path: method for method in ALL}
BY_NAME: Mapping[str, Method] = {method.name: method for method in ALL}


def find(path: str) -> Method:
    """Return a method by its path; one that isn't listed (health, reflection) changes nothing and may stay."""
    return BY_PATH.get(path) or Method(path, Kind.WATCH, changes=False)
