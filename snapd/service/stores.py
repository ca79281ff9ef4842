"""The archive that the settings name: its store, and the repository on it."""

from snapd import clock as clocks
from snapd.archive import layout, sealing
from snapd.archive import repository as repositories
from snapd.archive.backends import backend, directory, s3
from snapd.service.settings import Settings


def store(settings: Settings, *, make: bool = False) -> backend.Backend:
    """Return the archive's store. A folder that isn't there is made by whoever may begin an archive, and by no tool.

    Raises errors.ArchiveUnreachable, errors.ArchiveRefused, errors.StorageFull.
    """
    if settings.bucket is not None:
        return s3.S3Backend(settings.bucket)
    return directory.DirectoryBackend(settings.archive_path, make=make, marker=layout.REPOSITORY)


def repository(settings: Settings, archive: backend.Backend, clock: clocks.Clock) -> repositories.Repository:
    """Return the archive in a store, yet to be connected. Raises errors.ConfigInvalid for a file of keys."""
    return repositories.Repository(
        archive,
        settings.index_path,
        settings.host,
        block_size=settings.block_size,
        level=settings.compression_level,
        keyring=None if settings.key_file is None else sealing.read_keys(settings.key_file),
        now=clock.now,
    )
