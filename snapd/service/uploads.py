"""Images on their way in: what a stream of an import is written to, and how an upload is continued and given up."""

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from snapd import errors, fsops, model, units
from snapd.catalog import journal, layers, operations, volumes
from snapd.qcow2.checking import repair, vet
from snapd.qcow2.format import foreign
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import writer
from snapd.service import core as cores
from snapd.service import jobs as running
from snapd.service import names, problems
from snapd.service.intents import import_volume


class _LayerTarget:
    """A raw image goes straight into the layer."""

    def __init__(self, core: cores.Core, intent: model.Intent, durable_offset: int) -> None:
        layer = layers.get(core.catalog.reader(), intent.payload[import_volume.HEAD])
        path = core.pool.temporary_path(layer.uid)
        with fsops.translated(path):
            if durable_offset and path.exists():
                repair.repair_leaks(path)
            else:
                core.pool.prepare(layer, import_volume.describe(core, intent))
            # Also of one that is there already: an earlier stream's process may have died before it did.
            fsops.sync_directory(path.parent)
        self._writer = writer.Writer.open(path)

    def write(self, offset: int, data: bytes) -> None:
        """Write data into the layer."""
        self._writer.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        """Have a range read as zeros."""
        self._writer.write_zeroes(offset, length)

    def flush(self) -> None:
        """Make it all durable."""
        self._writer.flush()

    def close(self) -> None:
        """Let go, keeping what was flushed."""
        self._writer.abandon()


class _StagingTarget:
    """A qcow2 image is spooled as it is, to be vetted when it is whole."""

    def __init__(self, core: cores.Core, volume_uid: str) -> None:
        path = core.pool.staging_path(volume_uid)
        with fsops.translated(path):
            if path.exists():
                self._fd = fsops.open_for_writing(path)
            else:
                self._fd = fsops.create(path)
            fsops.sync_directory(path.parent)

    def write(self, offset: int, data: bytes) -> None:
        """Write data into the file."""
        fsops.pwrite(self._fd, data, offset)

    def zero(self, offset: int, length: int) -> None:
        """Have a range read as zeros."""
        if offset + length > os.fstat(self._fd).st_size:
            fsops.truncate(self._fd, offset)
            fsops.truncate(self._fd, offset + length)
        elif not fsops.punch_hole(self._fd, offset, length):
            for start in range(offset, offset + length, units.MIB):
                fsops.pwrite(self._fd, bytes(min(units.MIB, offset + length - start)), start)

    def flush(self) -> None:
        """Make it all durable."""
        fsops.fsync(self._fd)

    def close(self) -> None:
        """Let go."""
        os.close(self._fd)


class ImportUpload:
    """One stream of an upload that makes a volume. Used by one thread at a time; closing it parks the upload.

    It may be closed by another thread, for a newer stream or a caller that gives the upload up: what comes afterwards
    is refused.
    """

    def __init__(
        self,
        core: cores.Core,
        jobs: running.Jobs,
        intent: model.Intent,
        row: journal.UploadRow,
        resume_offset: int,
        on_close: Callable[[], None],
    ) -> None:
        self._core = core
        self._jobs = jobs
        self._intent = intent
        self._row = row
        self._on_close = on_close
        self._lock = threading.Lock()
        self._open = True
        self._finished = False
        self._head = bytearray()
        """The image's first bytes, as far as this stream brought them."""
        self.durable_offset = row.durable_offset
        self._position = resume_offset
        self._name = names.volume(self.volume.environment, self.volume.id)
        self._target: _LayerTarget | _StagingTarget
        if row.format is model.ImageFormat.RAW:
            self._target = _LayerTarget(core, intent, row.durable_offset)
        else:
            self._target = _StagingTarget(core, row.volume_uid)

    @property
    def volume(self) -> model.Volume:
        """The volume as it is now."""
        found = volumes.by_uid(self._core.catalog.reader(), self._row.volume_uid)
        if found is None:
            raise errors.NotFound(resource_type="volume", name=self._row.volume_uid)
        return found

    @property
    def operation(self) -> model.Operation:
        """The operation that ends when the volume is made."""
        found = operations.by_uid(self._core.catalog.reader(), self._intent.operation)
        assert found is not None
        return found

    def data(self, offset: int, data: bytes) -> None:
        """Take bytes, which must continue where the last ones ended.

        Raises errors.UploadOffset, errors.OutOfRange, errors.InvalidField, errors.PoolFull, errors.StorageFull,
        errors.WrongState if the upload was taken from this stream, errors.ImageRefused as `finish` does.
        """
        with self._holding():
            self._advance(offset, len(data))
            self._glance(offset, data)
            self._core.pool.require_room(len(data))
            with fsops.translated(self._core.pool.root):
                self._target.write(offset, data)
            self._position += len(data)

    def hole(self, offset: int, length: int) -> None:
        """Take a range of zeros, which must continue where the last bytes ended. Raises as data does."""
        with self._holding():
            self._advance(offset, length)
            self._glance(offset, bytes(min(length, foreign.HEAD_BYTES)))
            with fsops.translated(self._core.pool.root):
                self._target.zero(offset, length)
            self._position += length

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Keep others from closing the stream for the length of a block. Raises errors.WrongState if they have."""
        with self._lock:
            if not self._open or self._finished:
                state = "at its end" if self._finished else "taken over by another call"
                raise errors.WrongState(name=self._name, state=state, method="ImportVolume", allowed="its own")
            yield

    def _glance(self, offset: int, data: bytes) -> None:
        """Look at the image's beginning as soon as it is there, lest its sender learn after hours that it is wrong.

        Raises errors.ImageRefused after the volume was removed again.
        """
        missing = foreign.HEAD_BYTES - len(self._head)
        if missing <= 0 or offset != len(self._head):
            return
        self._head += data[:missing]
        if len(self._head) < foreign.HEAD_BYTES:
            return
        try:
            vet.require_beginning(bytes(self._head), raw=self._row.format is model.ImageFormat.RAW)
        except errors.ImageRefused:
            self._end()
            discard(self._core, self._intent)
            raise

    def _end(self) -> None:
        """Let go of what is written to; nothing more is taken."""
        self._finished = True
        self._target.close()

    def _advance(self, offset: int, length: int) -> None:
        name = self._name
        if offset != self._position:
            raise errors.UploadOffset(name=name, offset=offset, durable_offset=self._position)
        if length <= 0 or length > self._row.upload_bytes - offset:
            raise errors.OutOfRange(name=name, offset=offset, length=length, size_bytes=self._row.upload_bytes)
        if self._row.format is model.ImageFormat.RAW and length % units.SECTOR:
            raise errors.InvalidField(field="length", problem=f"is no multiple of {units.SECTOR}")

    def flush(self) -> int:
        """Make what came durable, and return the offset up to which it is. Raises errors.WrongState as data does."""
        with self._holding():
            return self._flush()

    def _flush(self) -> int:
        if self._position > self.durable_offset:
            with fsops.translated(self._core.pool.root):
                self._target.flush()
            fsops.point("upload.flushed")
            expires = self._core.now() + self._core.settings.upload_expiry
            with self._core.catalog.transaction() as tx:
                journal.advance_upload(tx, self._row.volume_uid, self._position, expires)
            self.durable_offset = self._position
        return self.durable_offset

    def finish(self) -> tuple[model.Volume, model.Operation]:
        """Make the volume of the whole image; the operation may go on after this returns.

        Raises errors.UploadIncomplete, errors.WrongState as data does, and errors.ImageRefused after the volume was
        removed again.
        """
        with self._holding():
            return self._finish()

    def _finish(self) -> tuple[model.Volume, model.Operation]:
        self._flush()
        volume, operation = self.volume, self.operation
        if self.durable_offset < self._row.upload_bytes:
            raise errors.UploadIncomplete(
                name=self._name,
                durable_offset=self.durable_offset,
                size_bytes=self._row.upload_bytes,
            )
        self._end()
        core = self._core
        raw = self._row.format is model.ImageFormat.RAW
        try:
            size_bytes = self._vetted_raw(volume) if raw else self._vetted_qcow2(volume)
        except (errors.ImageRefused, errors.Corrupt):
            discard(core, self._intent)
            raise
        with core.catalog.transaction() as tx:
            head = self._intent.payload[import_volume.HEAD]
            if not raw:
                layer = core.new_layer(None, size_bytes)
                layers.insert(tx, layer)
                head = layer.uid
                volumes.put(tx, dataclasses.replace(volume, size_bytes=size_bytes, updated=core.now()))
            payload = {import_volume.HEAD: head, import_volume.FORMAT: self._row.format}
            intent = journal.open_intent(tx, import_volume.KIND, volume.uid, payload, core.now(), operation.uid)
            journal.close_intent(tx, self._intent)
            journal.remove_upload(tx, volume.uid)
        fsops.point("upload.whole")
        if raw:
            self._jobs.run_now(intent)
        else:
            self._jobs.submit(intent)
        return self.volume, self.operation

    def _vetted_raw(self, volume: model.Volume) -> int:
        """Return the size of an uploaded raw disk, unless its bytes are another format's."""
        path = self._core.pool.temporary_path(self._intent.payload[import_volume.HEAD])
        with image.Image.open(path) as layer:
            disk = chain.Chain([layer])

            def read(length: int, offset: int) -> bytes:
                buffer = bytearray(length)
                disk.read_into(offset, memoryview(buffer))
                return bytes(buffer)

            vet.require_raw(read, volume.size_bytes)
        return volume.size_bytes

    def _vetted_qcow2(self, volume: model.Volume) -> int:
        """Return the size of the disk that an uploaded image holds."""
        size_bytes = vet.vet_import(self._core.pool.staging_path(volume.uid)).size_bytes
        if not 0 < size_bytes <= model.LARGEST_VOLUME:
            raise errors.ImageRefused(
                problem=f"a disk of {size_bytes} bytes; a volume has 1 to {model.LARGEST_VOLUME} bytes"
            )
        return size_bytes

    def close(self) -> None:
        """Let go of the upload; what is durable waits for the next stream. May be called again."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            try:
                if not self._finished:
                    self._target.close()
            finally:
                self._on_close()

    def __enter__(self) -> "ImportUpload":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def discard(core: cores.Core, intent: model.Intent, error: errors.SnapdError | None = None) -> None:
    """Give an upload up: the volume, its layer and the staging file go.

    Its operation ends with the error; without one it is forgotten with the request that began it, so that the same
    request can be made again. The caller has the upload to itself. Nothing happens if it has ended.
    """
    with core.catalog.transaction() as tx:
        if not journal.is_open(tx.connection, intent):
            return
        volume = volumes.by_uid(tx.connection, intent.subject)
        journal.close_intent(tx, intent)
        if intent.payload[import_volume.HEAD]:
            layers.doom(tx, intent.payload[import_volume.HEAD])
        if volume is not None:
            volumes.remove(tx, volume, core.now())
        if error is None:
            operations.withdraw(tx, intent.operation)
        else:
            operations.end(tx, intent.operation, core.now(), problems.describe(error))
    core.pool.remove_staging(intent.subject)
    core.sweep()


class Active:
    """Which uploads have a stream at the moment: there can be only one, and it is the newest that asked for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[str, ImportUpload | None] = {}
        """By the volume's uid; None while whoever claimed it has no stream, or none yet."""

    def claim(self, volume_uid: str) -> bool:
        """Take an upload; False if another has it."""
        with self._lock:
            if volume_uid in self._streams:
                return False
            self._streams[volume_uid] = None
            return True

    def opened(self, volume_uid: str, stream: ImportUpload) -> None:
        """Say which stream has the upload that was claimed for it."""
        with self._lock:
            self._streams[volume_uid] = stream

    def interrupt(self, volume_uid: str) -> None:
        """Close the stream that has an upload, if one has: it was cut, and nobody noticed yet, or isn't wanted now."""
        with self._lock:
            stream = self._streams.get(volume_uid)
        if stream is not None:
            stream.close()

    @contextmanager
    def held_off(self, volume_uid: str) -> Iterator[bool]:
        """Keep streams from an upload for the length of a block; yields False if one has it already."""
        free = self.claim(volume_uid)
        try:
            yield free
        finally:
            if free:
                self.release(volume_uid)

    def release(self, volume_uid: str) -> None:
        """Let another stream have it."""
        with self._lock:
            self._streams.pop(volume_uid, None)
