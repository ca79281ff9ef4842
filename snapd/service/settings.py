"""What the service layer has to be told before it can open: places, sizes, times and numbers of threads."""

import dataclasses
import datetime
import pathlib

from snapd import model
from snapd.archive.backends import s3settings
from snapd.live import launcher as launchers


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings:
    """How attached volumes are served."""

    exports_path: pathlib.Path
    """Folder of the storage daemons' sockets."""
    launcher: model.Launcher = model.Launcher.DIRECT
    """Who starts the next ones."""
    program: str = launchers.PROGRAM
    """QEMU's storage daemon, by its name or its path."""
    account: launchers.Account | None = None
    """Under whom they run; None: under the daemon's own account."""
    clients_gid: int = -1
    """The group of those who may connect to disks; -1: the daemon's own."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checked settings; the configuration fills them in."""

    pool_path: pathlib.Path
    archive_path: pathlib.Path
    """Folder of the archive, unless it is in a bucket."""
    bucket: s3settings.S3Settings | None = None
    key_file: pathlib.Path | None = None
    """Keys with which the archive is encrypted."""
    catalog_path: pathlib.Path
    index_path: pathlib.Path
    host: str
    block_size: int
    scrub_interval: datetime.timedelta
    """How often each part of the archive is read again; nothing means never."""
    catalog_backup_interval: datetime.timedelta
    """How long after a backup of the catalog the next one may be made; nothing means that none are made."""
    compression_level: int
    default_retention: datetime.timedelta
    low_watermark_bytes: int
    max_chain_depth: int
    archive_workers: int
    archive_workers_per_environment: int
    archive_bytes_per_second: int
    """Of all archive runs together; 0: no limit."""
    scrub_bytes_per_second: int
    """Of checks of the archive; 0: no limit."""
    copy_threads: int
    retry_initial: datetime.timedelta
    retry_longest: datetime.timedelta
    upload_expiry: datetime.timedelta
    live: LiveSettings
