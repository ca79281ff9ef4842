"""The part of a host's archive that holds backups of its catalog: each a snapshot of the catalog's file.

Owns their names, what their manifests say, how one is put in and taken out, and which are kept. Reading needs no claim,
so whoever rebuilds a lost catalog uses it with a repository that isn't connected. When a backup is made is `backups`'
business.
"""

import dataclasses
import datetime
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Final

from snapd import errors, fsops
from snapd import pace as paces
from snapd.archive import repository as repositories
from snapd.catalog import copying
from snapd.copier import control as controls
from snapd.service import core as cores

KEPT: Final = 3
"""The newest ones, whatever their age."""
KEPT_DAYS: Final = 7
"""Days, today among them, of each of which the newest one is kept."""

_NAME: Final = re.compile(r"backup-([0-9]{20})")


@dataclasses.dataclass(frozen=True, slots=True)
class Backup:
    """A backup of the catalog, as its manifest tells of it."""

    name: str
    """The uid of its snapshot in the area core.CATALOG_AREA."""
    revision: int
    """The newest one in it."""
    created: datetime.datetime
    schema: int
    """The number of the catalog's schema then."""
    size_bytes: int


def name_of(revision: int) -> str:
    """Return the name of the backup of a catalog whose newest revision that is; names order as revisions do."""
    return f"backup-{revision:020}"


def revision_of(name: str) -> int:
    """Return the newest revision in the backup of that name."""
    found = _NAME.fullmatch(name)
    assert found is not None, "a name that `names` doesn't give"
    return int(found[1])


def names(repository: repositories.Repository) -> list[str]:
    """Return the names of the host's backups that have a believed manifest, the newest first; none of them is read.

    Raises errors.ArchiveUnreachable, errors.ArchiveRefused.
    """
    found = repository.snapshots(cores.CATALOG_AREA)
    return sorted(filter(_NAME.fullmatch, found), reverse=True)


def look(repository: repositories.Repository, name: str) -> Backup:
    """Return what the manifest of a backup tells; its contents aren't read.

    Raises errors.NotFound, errors.Corrupt, errors.ArchiveKeyMissing, errors.ArchiveUnreachable.
    """
    found = repository.manifest(cores.CATALOG_AREA, name)
    what = f"backup {name} of the catalog"
    try:
        created = datetime.datetime.fromisoformat(str(found.metadata["created"]))
        backup = Backup(
            name=name,
            revision=int(str(found.metadata["revision"])),
            created=created.astimezone(datetime.UTC),
            schema=int(str(found.metadata["schema"])),
            size_bytes=found.size_bytes,
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise errors.Corrupt(
            what=f"backup {name} of the catalog", problem=f"{type(error).__name__}: {error}"
        ) from error
    if name != name_of(backup.revision) or created.tzinfo is None:
        raise errors.Corrupt(what=what, problem="its manifest tells of another one")
    return backup


def restore(repository: repositories.Repository, name: str, path: pathlib.Path) -> Backup:
    """Write a backup into a file that isn't there, durably but for its name, and return what it is.

    Every block is checked by its name, and SQLite checks the whole. After an error there is no file. Raises
    errors.Corrupt if any of it is damaged; errors.NotFound, errors.ArchiveKeyMissing, errors.ArchiveUnreachable,
    errors.StorageFailed (also if there is a file), errors.StorageFull.
    """
    backup = look(repository, name)
    found = repository.manifest(cores.CATALOG_AREA, name)
    with fsops.translated(path):
        fd = fsops.create(path)
    try:
        try:
            with fsops.translated(path):
                fsops.truncate(fd, found.size_bytes)
                for number, data in found.read_blocks(0, found.blocks):
                    fsops.pwrite(fd, data, number * found.block_size)
                fsops.fsync(fd)
        finally:
            os.close(fd)
        copying.require_whole(path)
        if (copying.schema(path), copying.revision(path)) != (backup.schema, backup.revision):
            raise errors.Corrupt(what=f"backup {name} of the catalog", problem="it holds another catalog")
    except BaseException:
        copying.discard(path)
        raise
    return backup


def record(
    repository: repositories.Repository,
    path: pathlib.Path,
    now: datetime.datetime,
    pace: paces.Pace,
    control: controls.Control,
) -> Backup:
    """Put a copy of the catalog, which nobody writes, into the archive, at a pace.

    Blocks that an earlier backup has are found there and not stored again. Raises errors.AlreadyExists if there is a
    backup of its revision; errors.ArchiveUnreachable and what else `Repository.begin` and `Recording.commit` raise;
    control.Stopped.
    """
    revision, schema = copying.revision(path), copying.schema(path)
    with fsops.translated(path):
        source = path.open("rb", buffering=0)
    with source:
        size_bytes = os.fstat(source.fileno()).st_size
        backup = Backup(name_of(revision), revision, now, schema, size_bytes)
        block_size = repository.block_size
        with repository.begin(cores.CATALOG_AREA, backup.name, size_bytes) as recording:
            for number, offset in enumerate(range(0, size_bytes, block_size)):
                control.check()
                length = min(block_size, size_bytes - offset)
                pace.take(length, control.wait)
                with fsops.translated(path):
                    data = os.pread(source.fileno(), length, offset)
                recording.put(number, data)
            recording.commit({"revision": str(revision), "created": now.isoformat(), "schema": str(schema)})
    return backup


def superseded(backups: Iterable[Backup], now: datetime.datetime) -> list[Backup]:
    """Return those of some backups that need not be kept: neither of the newest three, nor the newest of a late day."""
    newest_first = sorted(backups, key=lambda backup: backup.revision, reverse=True)
    kept = {backup.name for backup in newest_first[:KEPT]}
    oldest_day = now.date() - datetime.timedelta(days=KEPT_DAYS - 1)
    days: set[datetime.date] = set()
    for backup in newest_first:
        day = backup.created.date()
        if day not in days and day >= oldest_day:
            days.add(day)
            kept.add(backup.name)
    return [backup for backup in newest_first if backup.name not in kept]
