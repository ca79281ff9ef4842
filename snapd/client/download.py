"""Downloads of snapshots and detached volumes into sparse local files. They survive broken streams.

It owns the dialogue of ExportVolume: every chunk's checksum is compared, nothing may be missing or come twice, and the
file gets its name only when it is whole and durable.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import google_crc32c
import grpc

from snapd import fsops
from snapd.client import connection, errors, retry
from snapd.v1 import transfer_pb2, volume_service_pb2

Progress = Callable[[int, int], None]
"""Called with the bytes received, holes included, and those in all."""


@dataclasses.dataclass(eq=False, kw_only=True)
class Damaged(Exception):
    """What arrived is not what was sent."""

    problem: str

    def __str__(self) -> str:
        return f"the download is damaged: {self.problem}"


@dataclasses.dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download brought."""

    source_uid: str
    size_bytes: int
    data_bytes: int
    """Those that were sent; the others are holes."""


def export_volume(
    client: connection.Client,
    source: str,
    path: pathlib.Path,
    *,
    overwrite: bool = False,
    on_progress: Progress | None = None,
    patience_s: float = retry.DEFAULT_PATIENCE_S,
) -> Downloaded:
    """Write the contents of a snapshot or a detached volume into a raw file.

    A broken stream of a snapshot is resumed; of a volume, which may have been written since, it begins anew. Until the
    file is whole it lies beside its place, as `.NAME.part`. Raises errors.ApiError, Damaged, FileExistsError (unless
    overwrite), and OSError if the file can't be written.
    """
    if not overwrite and path.exists():
        raise FileExistsError(f"{path} exists")
    temporary = path.with_name(f".{path.name}.part")
    fsops.unlink(temporary, durable=False)
    fd = fsops.create(temporary, 0o644)
    try:
        download = _Download(client, source, fd, on_progress)
        download.run(patience_s)
        fsops.fsync(fd)
        fsops.publish(temporary, path)
    except BaseException:
        fsops.unlink(temporary, durable=False)
        raise
    finally:
        os.close(fd)
    return Downloaded(download.source_uid, download.size_bytes, download.data_bytes)


class _Download:
    """A file that fills through as many streams as it takes."""

    def __init__(self, client: connection.Client, source: str, fd: int, on_progress: Progress | None) -> None:
        self._client = client
        self._source = source
        self._fd = fd
        self._on_progress = on_progress
        self._restart()

    def _restart(self) -> None:
        """Forget what has come."""
        self.source_uid = ""
        self.size_bytes = 0
        self.data_bytes = 0
        self._offset = 0
        fsops.truncate(self._fd, 0)

    def run(self, patience_s: float) -> None:
        """Receive until the end. Raises errors.ApiError and Damaged."""
        patience = retry.Patience(patience_s)
        while True:
            before = self._offset
            try:
                self._stream()
                return
            except grpc.RpcError as error:
                failure = errors.from_rpc_error(error)
            if self._offset > before:
                patience.moved()
            patience.pause(failure)
            if "/snapshots/" not in self._source:
                self._restart()

    def _stream(self) -> None:
        """Receive what is missing through one stream. Raises grpc.RpcError and Damaged."""
        request = volume_service_pb2.ExportVolumeRequest(source=self._source, start_offset=self._offset)
        begun_at, data_before = self._offset, self.data_bytes
        call = self._client.volumes.ExportVolume(request)
        ended = False
        try:
            for answer in call:
                match answer.WhichOneof("message"):
                    case "start":
                        self._begin(answer.start)
                    case "data":
                        self._write(answer.data)
                    case "hole":
                        self._skip(answer.hole)
                    case "end":
                        self._check_end(answer.end, begun_at, data_before)
                        ended = True
        finally:
            call.cancel()
        if not ended:
            raise Damaged(problem=f"it ends at offset {self._offset} without saying so")

    def _begin(self, start: volume_service_pb2.ExportVolumeResponse.Start) -> None:
        if self.source_uid and (start.source_uid, start.size_bytes) != (self.source_uid, self.size_bytes):
            raise Damaged(problem=f"{self._source} is not the one with which it began")
        self.source_uid = start.source_uid
        self.size_bytes = start.size_bytes
        fsops.truncate(self._fd, start.size_bytes)

    def _write(self, chunk: transfer_pb2.DataChunk) -> None:
        if google_crc32c.value(chunk.data) != chunk.crc32c:
            raise Damaged(problem=f"the chunk at offset {chunk.offset} does not match its checksum")
        self._check_place(chunk.offset, len(chunk.data))
        fsops.pwrite(self._fd, chunk.data, chunk.offset)
        self.data_bytes += len(chunk.data)
        self._advance(len(chunk.data))

    def _skip(self, hole: transfer_pb2.Hole) -> None:
        self._check_place(hole.offset, hole.length)
        self._advance(hole.length)

    def _check_place(self, offset: int, length: int) -> None:
        if offset != self._offset or not 0 < length <= self.size_bytes - offset:
            raise Damaged(problem=f"{length} bytes came for offset {offset}, where {self._offset} was due")

    def _advance(self, length: int) -> None:
        self._offset += length
        if self._on_progress is not None:
            self._on_progress(self._offset, self.size_bytes)

    def _check_end(self, end: volume_service_pb2.ExportVolumeResponse.End, begun_at: int, data_before: int) -> None:
        received = self._offset - begun_at
        data = self.data_bytes - data_before
        if self._offset != self.size_bytes or (end.data_bytes, end.hole_bytes) != (data, received - data):
            raise Damaged(problem=f"{received} bytes came since offset {begun_at}, which is not what was sent")
