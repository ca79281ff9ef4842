"""The catalog and the archive: each archived snapshot has its manifest, and each manifest its snapshot.

Manifests are listed and not read: whether what they lead to is whole is the scrub's business. May be asked beside a
daemon that runs: what seems wrong is looked at once more before it is told.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from snapd import model
from snapd.catalog import db, environments, snapshots
from snapd.service import names
from snapd.service.inspection import findings


class Archive(Protocol):
    """What an archive has to tell (see archive.repository.Repository)."""

    def environments(self) -> list[str]:
        """Return the uids of this host's environments."""
        ...

    def snapshots(self, environment_uid: str) -> list[str]:
        """Return the uids of an environment's snapshots."""
        ...


def look(
    read: db.Reader, archive: Archive, reserved: Collection[str], check_stop: Callable[[], None]
) -> Iterator[findings.Finding]:
    """Yield what is missing in the archive, and what nobody explains there; `reserved` areas hold no snapshots.

    Raises errors.ArchiveUnreachable, errors.Corrupt, errors.ArchiveKeyMissing, and what check_stop raises.
    """
    known = {found.uid for found in environments.every(read())}
    for environment_uid in sorted(known | set(archive.environments()) - set(reserved)):
        check_stop()
        yield from _look_at(read, archive, environment_uid)


def lost(read: db.Reader, archive: Archive, environment_uid: str) -> list[str]:
    """Return the uids of an environment's archived snapshots that the archive lacks, sorted. Raises as `look`."""
    expected = snapshots.archived_uids(read(), environment_uid)
    there = set(archive.snapshots(environment_uid))
    # One that was deleted meanwhile was on its way before its manifest went.
    return sorted(uid for uid in expected - there if _is_archived(read, uid))


def _look_at(read: db.Reader, archive: Archive, environment_uid: str) -> Iterator[findings.Finding]:
    for uid in lost(read, archive, environment_uid):
        snapshot = snapshots.by_uid(read(), uid)
        if snapshot is not None:
            name = names.snapshot(snapshot.environment, snapshot.id)
            problem = f"the archive has no manifest of {name}"
            yield findings.Finding(findings.Kind.COPY_MISSING, uid, problem, (name,))
    # The manifests come first: the row of one that has come since is there already.
    unknown = [uid for uid in archive.snapshots(environment_uid) if snapshots.by_uid(read(), uid) is None]
    # A deletion takes the manifest and then the row: what is listed once more isn't on its way out.
    there = set(archive.snapshots(environment_uid)) if unknown else set()
    for uid in unknown:
        if uid in there:
            problem = f"the archive has a snapshot {uid} of environment {environment_uid} that the catalog doesn't know"
            yield findings.Finding(findings.Kind.COPY_UNEXPLAINED, uid, problem)


def _is_archived(read: db.Reader, uid: str) -> bool:
    found = snapshots.by_uid(read(), uid)
    return (
        found is not None
        and found.archive.state is model.ArchiveState.ARCHIVED
        and found.state is not model.SnapshotState.DESTROYING
    )
