"""What the archive's manifests say: which snapshots of this host are archived, and what is known of them from there.

Manifests of snapshots that the backup has as archived are listed and not read. Reading needs no claim.
"""

import dataclasses
from collections.abc import Collection, Mapping

from snapd import errors
from snapd.archive import manifest as manifests
from snapd.archive import repository as repositories
from snapd.service import core as cores
from snapd.service import descriptions


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """A snapshot in the archive."""

    uid: str
    environment_uid: str
    size_bytes: int = 0
    statistics: manifests.Statistics = dataclasses.field(default_factory=manifests.Statistics)
    archived: descriptions.Archived | None = None
    """What its manifest says of it; None if it wasn't read, or says nothing that is understood."""
    problem: str = ""
    """Why its manifest can't be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Archive:
    """All snapshots of this host in the archive."""

    copies: Mapping[str, Copy]
    """By the snapshot's uid."""
    block_size: int = 1
    """Bytes of a block, in which statistics count."""


def survey(repository: repositories.Repository, known: Collection[str]) -> Archive:
    """List this host's believed manifests, and read those of snapshots that are not known to be archived.

    Raises errors.ArchiveUnreachable, errors.ArchiveRefused, errors.ArchiveKeyMissing, errors.Corrupt if what is
    believed can't be told.
    """
    found: dict[str, Copy] = {}
    block_size = 1
    for environment_uid in repository.environments():
        if environment_uid == cores.CATALOG_AREA:
            continue
        for uid in repository.snapshots(environment_uid):
            if uid in known:
                found[uid] = Copy(uid, environment_uid)
                continue
            try:
                manifest = repository.manifest(environment_uid, uid)
            except (errors.Corrupt, errors.NotFound) as error:
                found[uid] = Copy(uid, environment_uid, problem=str(error))
                continue
            block_size = manifest.block_size
            found[uid] = _read(manifest)
    return Archive(found, block_size)


def _read(manifest: manifests.Manifest) -> Copy:
    try:
        archived = descriptions.decode_metadata(manifest.metadata)
    except errors.Corrupt:
        archived = None
    return Copy(manifest.snapshot_uid, manifest.environment_uid, manifest.size_bytes, manifest.statistics, archived)
