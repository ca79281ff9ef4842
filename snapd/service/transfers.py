"""Bytes in and out: imports, writes into a detached volume, exports."""

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Protocol

from snapd import errors, model
from snapd.catalog import db, journal, layers, points, volumes
from snapd.copier import export
from snapd.service import core as cores
from snapd.service import heads as heading
from snapd.service import health, lookup, names, states, uploads
from snapd.service import jobs as running
from snapd.service.intents import import_volume
from snapd.service.volumes import VolumeSpec, fresh_volume

Piece = export.Piece


class Upload(Protocol):
    """Where a stream of chunks goes. Used by one thread at a time."""

    durable_offset: int

    @property
    def volume(self) -> model.Volume:
        """The volume as it is now."""
        ...

    def data(self, offset: int, data: bytes) -> None:
        """Take bytes."""
        ...

    def hole(self, offset: int, length: int) -> None:
        """Take a range of zeros."""
        ...

    def flush(self) -> int:
        """Make what came durable, and return the offset up to which it is."""
        ...

    def finish(self) -> tuple[model.Volume, model.Operation | None]:
        """End it well."""
        ...

    def close(self) -> None:
        """End it, well or not. May be called again."""
        ...


class Reading:
    """Heads that are being read whole, and so may not be written. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    @contextmanager
    def reading(self, layer: str) -> Iterator[None]:
        """Have a head stand still for the length of a block."""
        with self._lock:
            self._counts[layer] += 1
        try:
            yield
        finally:
            with self._lock:
                self._counts[layer] -= 1
                if self._counts[layer] == 0:
                    del self._counts[layer]

    def is_read(self, layer: str | None) -> bool:
        """Say whether anybody reads a head whole."""
        with self._lock:
            return layer in self._counts

    def is_read_once(self, layer: str) -> bool:
        """Say whether exactly one call reads a head whole."""
        with self._lock:
            return self._counts[layer] == 1


class VolumeWrite:
    """A stream of writes into a detached volume. Each chunk is written under the volume's mutex."""

    def __init__(self, core: cores.Core, heads: heading.Heads, reading: Reading, volume: model.Volume) -> None:
        self._core = core
        self._heads = heads
        self._reading = reading
        self._uid = volume.uid
        self._name = names.volume(volume.environment, volume.id)
        self._size_bytes = volume.size_bytes
        self._position = 0
        self._losses = heads.losses(volume.uid)
        self.durable_offset = 0

    @property
    def volume(self) -> model.Volume:
        """The volume as it is now. Raises errors.NotFound."""
        found = volumes.by_uid(self._core.catalog.reader(), self._uid)
        if found is None:
            raise errors.NotFound(resource_type="volume", name=self._name)
        return found

    def _writable(self) -> model.Volume:
        volume = self.volume
        states.require_volume("WriteBlocks", self._name, volume.state)
        if self._reading.is_read(volume.head_layer):
            raise errors.WrongState(
                name=self._name, state="being exported or checked", method="WriteBlocks", allowed="read by nobody"
            )
        return volume

    def data(self, offset: int, data: bytes) -> None:
        """Write bytes.

        Raises errors.OutOfRange, errors.WrongState, errors.VolumeAttached, errors.PoolFull, errors.StorageFull.
        """
        self._check(offset, len(data))
        self._core.pool.require_room(len(data))
        with self._core.locks.holding(self._uid):
            self._heads.writer(self._writable()).write(offset, data)
        self._position = offset + len(data)

    def hole(self, offset: int, length: int) -> None:
        """Have a range read as zeros. Raises as data does."""
        self._check(offset, length)
        with self._core.locks.holding(self._uid):
            self._heads.writer(self._writable()).write_zeroes(offset, length)
        self._position = offset + length

    def _check(self, offset: int, length: int) -> None:
        if offset < self._position:
            raise errors.InvalidField(
                field="offset", problem=f"lies before {self._position}, the end of the last chunk"
            )
        if length <= 0 or length > self._size_bytes - offset:
            raise errors.OutOfRange(name=self._name, offset=offset, length=length, size_bytes=self._size_bytes)

    def flush(self) -> int:
        """Make what was written durable. Raises errors.StorageFull, errors.StorageFailed if it isn't."""
        with self._core.locks.holding(self._uid):
            self._heads.flush(self._uid)
            self._require_no_loss()
        self.durable_offset = self._position
        return self.durable_offset

    def finish(self) -> tuple[model.Volume, None]:
        """Make what was written durable; there is no operation. Raises as flush does."""
        self.close()
        self._require_no_loss()
        self.durable_offset = self._position
        return self.volume, None

    def _require_no_loss(self) -> None:
        """Raise if somebody else, a capture say, had to close the head before and couldn't flush what was written."""
        if self._heads.losses(self._uid) != self._losses:
            raise errors.StorageFailed(path=self._name, problem="what was written before could not be made durable")

    def close(self) -> None:
        """Flush and close the head."""
        with self._core.locks.holding(self._uid):
            self._heads.close(self._uid)


class Export:
    """A disk's contents at one instant, held still until it is closed."""

    def __init__(self, name: str, size_bytes: int, pieces: Callable[[int], Iterator[Piece]], stack: ExitStack) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self._pieces = pieces
        self._stack = stack

    def pieces(self, offset: int) -> Iterator[Piece]:
        """Yield the disk from an offset on, in order and without gaps. Raises errors.OutOfRange, errors.Corrupt."""
        if not 0 <= offset <= self.size_bytes:
            raise errors.OutOfRange(name=self.name, offset=offset, length=0, size_bytes=self.size_bytes)
        return self._pieces(offset)

    def close(self) -> None:
        """Let go of the layers. May be called again."""
        self._stack.close()

    def __enter__(self) -> "Export":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Transfers:
    """Everything that moves a disk's bytes over the API."""

    def __init__(self, core: cores.Core, jobs: running.Jobs, heads: heading.Heads) -> None:
        self._core = core
        self._jobs = jobs
        self._heads = heads
        self.reading = Reading()
        """Exports and checks under way."""
        self.active = uploads.Active()

    # --- in -----------------------------------------------------------------------------------------------------------

    def begin_import(
        self,
        request: model.Request,
        environment_id: str,
        volume_id: str,
        spec: VolumeSpec,
        image_format: model.ImageFormat,
        upload_bytes: int,
        resume_offset: int,
    ) -> uploads.ImportUpload:
        """Begin an upload that makes a volume, or continue the one that the same request began.

        A stream that still has the upload loses it: of two, the newer one belongs to a caller that is alive.

        Raises errors.NotFound, errors.AlreadyExists, errors.PoolFull, errors.UploadOffset, errors.WrongState.
        """
        core = self._core
        with core.catalog.transaction() as tx:
            earlier = lookup.earlier(tx.connection, request)
            if earlier is None:
                if resume_offset:
                    raise errors.UploadOffset(name=volume_id, offset=resume_offset, durable_offset=0)
                core.pool.require_room()
                volume_uid = self._accept_import(
                    tx, request, environment_id, volume_id, spec, image_format, upload_bytes
                )
            else:
                volume_uid = earlier[0]
        return self._continue_import(volume_uid, resume_offset)

    def _accept_import(
        self,
        tx: db.Transaction,
        request: model.Request,
        environment_id: str,
        volume_id: str,
        spec: VolumeSpec,
        image_format: model.ImageFormat,
        upload_bytes: int,
    ) -> str:
        core = self._core
        environment = lookup.environment(tx.connection, environment_id)
        raw = image_format is model.ImageFormat.RAW
        volume = fresh_volume(core, tx, environment, volume_id, spec, upload_bytes if raw else 0)
        volumes.put(tx, volume)
        head = ""
        if raw:
            layer = core.new_layer(None, upload_bytes)
            layers.insert(tx, layer)
            head = layer.uid
        name = names.volume(environment.id, volume.id)
        operation = lookup.accept(
            tx, request, core.new_operation("ImportVolume", environment, name, volume.uid), volume.uid
        )
        now = core.now()
        journal.open_intent(tx, import_volume.UPLOAD, volume.uid, {import_volume.HEAD: head}, now, operation.uid)
        expires = now + core.settings.upload_expiry
        journal.insert_upload(tx, journal.UploadRow(volume.uid, image_format, upload_bytes, 0, expires))
        return volume.uid

    def _continue_import(self, volume_uid: str, resume_offset: int) -> uploads.ImportUpload:
        reader = self._core.catalog.reader()
        volume = volumes.by_uid(reader, volume_uid)
        if volume is None:
            raise errors.NotFound(resource_type="volume", name=volume_uid)
        name = names.volume(volume.environment, volume.id)
        self.active.interrupt(volume_uid)
        if not self.active.claim(volume_uid):
            raise errors.WrongState(
                name=name, state="claimed by another call", method="ImportVolume", allowed="claimed by none"
            )
        try:
            row = journal.find_upload(reader, volume_uid)
            if row is None:
                raise errors.WrongState(
                    name=name, state=f"{volume.state} and whole", method="ImportVolume", allowed="still uploading"
                )
            if resume_offset not in (0, row.durable_offset):
                raise errors.UploadOffset(name=name, offset=resume_offset, durable_offset=row.durable_offset)
            (intent,) = journal.intents_of(reader, volume_uid)
            upload = uploads.ImportUpload(
                self._core, self._jobs, intent, row, resume_offset, lambda: self.active.release(volume_uid)
            )
            self.active.opened(volume_uid, upload)
            return upload
        except BaseException:
            self.active.release(volume_uid)
            raise

    def expire_uploads(self) -> None:
        """Give up the uploads that nobody has continued for too long."""
        core = self._core
        for row in journal.uploads(core.catalog.reader()):
            if row.expires > core.now():
                # Nor have the others, which follow; a stream that comes for one of them must find it free.
                break
            with self.active.held_off(row.volume_uid) as free:
                # A stream may have had it a moment ago, and have gone on with it or ended it.
                found = journal.find_upload(core.catalog.reader(), row.volume_uid)
                if free and found is not None and found.expires <= core.now():
                    for intent in journal.intents_of(core.catalog.reader(), row.volume_uid):
                        uploads.discard(core, intent, self._incomplete(row))

    def _incomplete(self, row: journal.UploadRow) -> errors.UploadIncomplete:
        volume = volumes.by_uid(self._core.catalog.reader(), row.volume_uid)
        name = row.volume_uid if volume is None else names.volume(volume.environment, volume.id)
        return errors.UploadIncomplete(name=name, durable_offset=row.durable_offset, size_bytes=row.upload_bytes)

    def begin_write(self, request: model.Request, environment_id: str, volume_id: str, etag: str) -> VolumeWrite:
        """Begin to write into a detached volume.

        Raises errors.NotFound, errors.WrongState, errors.VolumeAttached, errors.EtagMismatch.
        """
        del request
        volume = lookup.volume(self._core.catalog.reader(), environment_id, volume_id)
        name = names.volume(environment_id, volume_id)
        lookup.require_etag(name, volume.revision, etag)
        states.require_volume("WriteBlocks", name, volume.state)
        self._core.require_detached(volume.uid)
        self._core.pool.require_room()
        return VolumeWrite(self._core, self._heads, self.reading, volume)

    # --- out ----------------------------------------------------------------------------------------------------------

    def export_volume(self, environment_id: str, volume_id: str) -> Export:
        """Open a detached volume to be read; it can't be written until the export is closed.

        Raises errors.NotFound, errors.WrongState, errors.VolumeAttached.
        """
        core = self._core
        name = names.volume(environment_id, volume_id)
        uid = lookup.volume(core.catalog.reader(), environment_id, volume_id).uid
        with core.locks.holding(uid), ExitStack() as stack:
            volume = lookup.volume(core.catalog.reader(), environment_id, volume_id)
            states.require_volume("ExportVolume", name, volume.state)
            head = volume.head_layer
            assert head is not None
            self._heads.close(volume.uid)
            stack.enter_context(self.reading.reading(head))
            chain = stack.enter_context(core.chain(head))
            return Export(name, chain.size_bytes, functools.partial(export.of_chain, chain), stack.pop_all())

    def export_snapshot(self, environment_id: str, snapshot_id: str) -> Export:
        """Open a snapshot to be read, from primary storage if it is there, else from the archive.

        Raises errors.NotFound, errors.WrongState, errors.ArchiveUnreachable, errors.Corrupt, errors.SnapshotDamaged.
        """
        core = self._core
        snapshot = lookup.snapshot(core.catalog.reader(), environment_id, snapshot_id)
        name = names.snapshot(environment_id, snapshot_id)
        states.require_snapshot("ExportVolume", name, snapshot.state)
        layer = points.layer_of(core.catalog.reader(), snapshot.point)
        if layer is not None:
            with ExitStack() as stack, suppress(cores.LayerGone):
                chain = stack.enter_context(core.chain(layer))
                return Export(name, chain.size_bytes, functools.partial(export.of_chain, chain), stack.pop_all())
        place = model.ArchivePlace(core.settings.host, snapshot.environment_uid, snapshot.uid)
        telling = functools.partial(health.telling, core, name, place, snapshot.size_bytes)
        with ExitStack() as stack:
            with telling():
                manifest = stack.enter_context(core.archived(snapshot))

            def pieces(offset: int) -> Iterator[Piece]:
                with telling():
                    yield from export.of_manifest(manifest, offset)

            return Export(name, manifest.size_bytes, pieces, stack.pop_all())
