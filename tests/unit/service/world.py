"""A service on a folder of the test's, short ways to use it, and the checker that looks at everything at the end."""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator

from snapd import clock as clocks
from snapd import model, units
from snapd.catalog import db, layers
from snapd.service import transfers
from snapd.service.service import Service
from snapd.service.settings import LiveSettings, Settings
from snapd.service.snapshots import SnapshotSpec
from snapd.service.volumes import VolumeSpec
from tests.unit.service import checker, faults

SIZE = 4 * units.MIB
CLUSTER = 64 * units.KIB
START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)

_LOOK_AGAIN_S = 0.02
"""What has no event, as a fold, is looked at this often."""


def settings_in(folder: pathlib.Path, exports: pathlib.Path | None = None) -> Settings:
    """Return settings for a service that keeps everything in a folder, but for the sockets of its exports if given."""
    return Settings(
        pool_path=folder / "pool",
        archive_path=folder / "archive",
        catalog_path=folder / "catalog.sqlite3",
        index_path=folder / "index.sqlite3",
        host="host-1",
        block_size=64 * units.KIB,
        scrub_interval=datetime.timedelta(days=30),
        catalog_backup_interval=datetime.timedelta(0),
        compression_level=1,
        default_retention=datetime.timedelta(hours=24),
        low_watermark_bytes=1,
        max_chain_depth=8,
        archive_workers=1,
        archive_workers_per_environment=64,
        archive_bytes_per_second=0,
        scrub_bytes_per_second=0,
        copy_threads=2,
        retry_initial=datetime.timedelta(seconds=30),
        retry_longest=datetime.timedelta(minutes=10),
        upload_expiry=datetime.timedelta(hours=1),
        live=LiveSettings(exports_path=exports or folder / "exports"),
    )


def request(method: str, parent: str = "e", request_id: str | None = None, digest: bytes = b"") -> model.Request:
    """Return a request with an id of its own, unless one is given."""
    return model.Request("me", method, parent, str(uuid.uuid4()) if request_id is None else request_id, digest)


def without_room(settings: Settings) -> Settings:
    """Return settings under which the pool is full, whatever is free."""
    return dataclasses.replace(settings, low_watermark_bytes=1 << 62)


def clone_of(snapshot_id: str) -> VolumeSpec:
    """Return what a volume is to be that is made from a snapshot."""
    return VolumeSpec("", {}, model.VolumeRole.DATA, "", 0, snapshot_id)


class World:
    """A service with one environment, `e`. It can be stopped and opened again; time passes when it is told to."""

    def __init__(self, folder: pathlib.Path, exports: pathlib.Path | None = None) -> None:
        """Keep everything in a folder. Volumes can be attached if there is a short one for the sockets of exports."""
        self.settings = settings_in(folder, exports)
        self.clock = clocks.ManualClock(START)
        self._changed = threading.Condition()
        self._service: Service | None = None

    @property
    def service(self) -> Service:
        """The open service."""
        assert self._service is not None, "the service is not open"
        return self._service

    # --- life ---------------------------------------------------------------------------------------------------------

    def open(self) -> Service:
        """Open the service and recover, without any background work."""
        self._service = Service.open(self.settings, self.clock)
        self._service.subscribe(self._notice)
        return self._service

    def start(self) -> Service:
        """Open the service and begin the background work."""
        service = self.open()
        service.start()
        return service

    def stop(self) -> None:
        """Stop the service in order, if it is open."""
        service, self._service = self._service, None
        if service is not None:
            service.stop()

    def restart(self, settings: Settings | None = None) -> None:
        """Stop the service and start it again, with other settings if they are given."""
        self.stop()
        self.settings = settings or self.settings
        self.start()

    def _notice(self, _revision: int) -> None:
        with self._changed:
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; it is looked at after each event, and now and then."""
        deadline_s = clocks.monotonic_s() + faults.PATIENCE_S
        with self._changed:
            while not condition():
                assert clocks.monotonic_s() < deadline_s, "what was waited for did not come"
                self._changed.wait(_LOOK_AGAIN_S)

    def pass_time(self, **duration: float) -> None:
        """Let time pass, as in timedelta(**duration)."""
        self.clock.advance(datetime.timedelta(**duration))

    # --- short ways ---------------------------------------------------------------------------------------------------

    def environment(self, environment_id: str = "e", retention: datetime.timedelta | None = None) -> None:
        """Make an environment."""
        request_ = request("CreateEnvironment", "")
        self.service.environments.create(request_, environment_id, "", {}, retention)

    def volume(self, volume_id: str, size_bytes: int = SIZE) -> model.Volume:
        """Make an empty volume."""
        spec = VolumeSpec("", {}, model.VolumeRole.DATA, "", size_bytes, "")
        return self.service.volumes.create(request("CreateVolume"), "e", volume_id, spec)[0]

    def clone(self, volume_id: str, snapshot_id: str) -> model.Volume:
        """Make a volume from a snapshot, and wait until it is made."""
        _, operation = self.service.volumes.create(request("CreateVolume"), "e", volume_id, clone_of(snapshot_id))
        self.succeed(operation)
        return self.service.volumes.get("e", volume_id)

    def write(self, volume_id: str, offset: int, data: bytes) -> None:
        """Write bytes into a volume, durably."""
        with contextlib.closing(
            self.service.transfers.begin_write(request("WriteBlocks"), "e", volume_id, "")
        ) as write:
            write.data(offset, data)
            write.finish()

    def zero(self, volume_id: str, offset: int, length: int) -> None:
        """Write zeros into a volume, durably."""
        with contextlib.closing(
            self.service.transfers.begin_write(request("WriteBlocks"), "e", volume_id, "")
        ) as write:
            write.hole(offset, length)
            write.finish()

    def snapshot(
        self, snapshot_id: str, volume_id: str, *, rapid: bool, retention: datetime.timedelta | None = None
    ) -> model.Snapshot:
        """Take a snapshot; a regular one is not waited for."""
        spec = SnapshotSpec(rapid, "", {}, retention)
        return self.service.snapshots.create(request("CreateSnapshot"), "e", snapshot_id, volume_id, spec)[0]

    def archived(self, snapshot_id: str, volume_id: str) -> model.Snapshot:
        """Take a regular snapshot, and wait until it is archived."""
        self.snapshot(snapshot_id, volume_id, rapid=False)
        self.until(lambda: self.get_snapshot(snapshot_id).archive.state is model.ArchiveState.ARCHIVED)
        return self.get_snapshot(snapshot_id)

    def get_snapshot(self, snapshot_id: str) -> model.Snapshot:
        """Return a snapshot."""
        return self.service.snapshots.get("e", snapshot_id)

    def get_volume(self, volume_id: str) -> model.Volume:
        """Return a volume."""
        return self.service.volumes.get("e", volume_id)

    def revert(self, volume_id: str, snapshot_id: str) -> None:
        """Revert a volume, and wait for the end."""
        request_ = request("RevertVolume")
        self.succeed(self.service.volumes.revert(request_, "e", volume_id, snapshot_id, "")[1])

    def delete_volume(self, volume_id: str) -> None:
        """Delete a volume."""
        self.service.volumes.delete(request("DeleteVolume"), "e", volume_id, "", False)

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot, and wait for the end."""
        _, operation = self.service.snapshots.delete(request("DeleteSnapshot"), "e", snapshot_id, "", False)
        assert operation is not None
        self.succeed(operation)

    def ended(self, operation: model.Operation) -> model.Operation:
        """Wait for the end of an operation and return it."""
        self.until(lambda: self.service.operations.get(operation.environment, operation.id).done)
        return self.service.operations.get(operation.environment, operation.id)

    def succeed(self, operation: model.Operation) -> None:
        """Wait for the good end of an operation."""
        assert self.ended(operation).error is None

    def volume_bytes(self, volume_id: str) -> bytes:
        """Return a volume's contents."""
        return contents(self.service.transfers.export_volume("e", volume_id))

    def snapshot_bytes(self, snapshot_id: str) -> bytes:
        """Return a snapshot's contents."""
        return contents(self.service.transfers.export_snapshot("e", snapshot_id))

    # --- looking inside -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def catalog(self) -> Iterator[sqlite3.Connection]:
        """Look into the catalog as another process would."""
        with contextlib.closing(sqlite3.connect(f"file:{self.settings.catalog_path}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection

    def rows(self, sql: str, *values: str | int) -> list[sqlite3.Row]:
        """Run a query on the catalog."""
        with self.catalog() as connection:
            return connection.execute(sql, values).fetchall()

    def depth(self, volume_id: str) -> int:
        """Return how many layers a volume's contents lie in."""
        head = self.get_volume(volume_id).head_layer
        assert head is not None
        with self.catalog() as connection:
            return len(layers.chain(connection, head))

    def layer_path(self, uid: str) -> pathlib.Path:
        """Return where a layer's file lies."""
        return self.settings.pool_path / uid[:2] / f"{uid}.qcow2"

    def archive_files(self, folder: str) -> list[str]:
        """Return the names of all files below a folder of the archive."""
        return [name for _, _, names in os.walk(self.settings.archive_path / folder) for name in names]

    def idle(self) -> bool:
        """Say whether nothing is under way, or due, but uploads and writes."""
        # What is due first: it may turn into an intent between two looks, and not the other way round.
        busy = self.rows("SELECT 1 FROM snapshots WHERE archive_next_us <= ?", db.to_us(self.clock.now()))
        busy += self.rows("SELECT 1 FROM intents WHERE kind NOT IN ('upload', 'write')")
        return not busy and not self.rows("SELECT 1 FROM layers WHERE state IN ('DOOMED', 'FOLDING')")

    def check(self) -> None:
        """Come to rest, stop, and look at every row and every file."""
        if self._service is not None:
            self.until(self.idle)
        self.stop()
        checker.check_at_rest(self.settings)


def leak(path: pathlib.Path) -> None:
    """Have a layer's file hold a cluster to which nothing refers, and leave it writable."""
    path.chmod(0o640)
    with path.open("r+b") as file:
        # The next cluster that is free, of the first refcount block.
        file.seek(48)
        table = int.from_bytes(file.read(8))
        file.seek(table)
        block = int.from_bytes(file.read(8))
        end = path.stat().st_size // CLUSTER
        file.truncate((end + 1) * CLUSTER)
        file.seek(block + end * 2)
        file.write((1).to_bytes(2))


def contents(export: transfers.Export) -> bytes:
    """Return all bytes of an export, and close it."""
    position = 0
    parts = []
    with export:
        for piece in export.pieces(0):
            assert piece.offset == position, "pieces come in order and without gaps"
            parts.append(bytes(piece.length) if piece.data is None else piece.data)
            assert len(parts[-1]) == piece.length
            position += piece.length
    assert position == export.size_bytes
    return b"".join(parts)
