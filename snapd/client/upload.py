"""Uploads of local files: a new volume from an image, or ranges of one that exists. They survive broken streams.

It owns the dialogue of ImportVolume and WriteBlocks. Memory stays bounded: gRPC's flow control stops the reading of the
file while the daemon doesn't keep up.
"""

import contextlib
import os
import pathlib
import queue
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import grpc

from snapd import errors as reasons
from snapd.client import connection, errors, image, retry
from snapd.v1 import transfer_pb2, volume_service_pb2

Progress = Callable[[int, int], None]
"""Called with the durable bytes and those in all."""

Piece = transfer_pb2.DataChunk | transfer_pb2.Hole
Request = TypeVar("Request")


class Answer(Protocol):
    """What the answers of both methods have."""

    @property
    def durable_offset(self) -> int: ...


Response = TypeVar("Response", bound=Answer)


def import_volume(
    client: connection.Client,
    path: pathlib.Path,
    start: volume_service_pb2.ImportVolumeRequest.Start,
    *,
    on_progress: Progress | None = None,
    patience_s: float = retry.DEFAULT_PATIENCE_S,
) -> volume_service_pb2.ImportVolumeResponse:
    """Make a volume of an image file and return the last answer: the volume and the operation that completes it.

    start needs parent and format; size_bytes is taken from the file, a request id is made up unless there is one (with
    the one of an upload that was cut, it is continued). A stream that breaks is resumed from what is durable. Raises
    errors.ApiError, and OSError if the file can't be read.
    """
    with _opened(path) as fd:
        size_bytes = image.size_bytes(fd)
        opening = volume_service_pb2.ImportVolumeRequest.Start()
        opening.CopyFrom(start)
        opening.size_bytes = size_bytes
        opening.request_id = start.request_id or connection.new_request_id()

        def begin(offset: int) -> volume_service_pb2.ImportVolumeRequest:
            opening.resume_offset = offset
            return volume_service_pb2.ImportVolumeRequest(start=opening)

        def wrap(piece: Piece) -> volume_service_pb2.ImportVolumeRequest:
            if isinstance(piece, transfer_pb2.Hole):
                return volume_service_pb2.ImportVolumeRequest(hole=piece)
            return volume_service_pb2.ImportVolumeRequest(data=piece)

        upload = _Upload(client.volumes.ImportVolume, begin, wrap, fd, size_bytes, on_progress)
        return upload.run(start.resume_offset, patience_s)


def write_blocks(
    client: connection.Client,
    path: pathlib.Path,
    name: str,
    *,
    etag: str = "",
    on_progress: Progress | None = None,
    patience_s: float = retry.DEFAULT_PATIENCE_S,
) -> None:
    """Write a raw file over the beginning of a detached volume; its holes become zeros there.

    The file's length has to be a multiple of 512. A stream that breaks is repeated from what is durable. Raises
    errors.ApiError, and OSError if the file can't be read.
    """
    opening = volume_service_pb2.WriteBlocksRequest.Start(name=name, etag=etag)

    def begin(_offset: int) -> volume_service_pb2.WriteBlocksRequest:
        return volume_service_pb2.WriteBlocksRequest(start=opening)

    def wrap(piece: Piece) -> volume_service_pb2.WriteBlocksRequest:
        if isinstance(piece, transfer_pb2.Hole):
            return volume_service_pb2.WriteBlocksRequest(hole=piece)
        return volume_service_pb2.WriteBlocksRequest(data=piece)

    with _opened(path) as fd:
        _Upload(client.volumes.WriteBlocks, begin, wrap, fd, image.size_bytes(fd), on_progress).run(0, patience_s)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[int]:
    """Open a file for reading, for the length of a block, and return its descriptor."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


class _Upload(Generic[Request, Response]):
    """A file on its way through as many streams as it takes."""

    def __init__(
        self,
        method: "grpc.StreamStreamMultiCallable[Request, Response]",  # generic in its stubs only
        begin: Callable[[int], Request],
        wrap: Callable[[Piece], Request],
        fd: int,
        size_bytes: int,
        on_progress: Progress | None,
    ) -> None:
        self._method = method
        self._begin = begin
        self._wrap = wrap
        self._fd = fd
        self._size_bytes = size_bytes
        self._on_progress = on_progress
        self._unreadable: OSError | None = None

    def run(self, offset: int, patience_s: float) -> Response:
        """Send from offset on until all of the file is durable, and return the last answer."""
        patience = retry.Patience(patience_s)
        self._durable = offset
        while True:
            before = self._durable
            try:
                return self._stream()
            except grpc.RpcError as error:
                failure = errors.from_rpc_error(error)
            if self._unreadable is not None:
                raise self._unreadable
            if self._durable > before:
                patience.moved()
            if failure.reason == reasons.UploadOffset.reason and "durable_offset" in failure.metadata:
                told = int(failure.metadata["durable_offset"])
                if told == self._durable:
                    raise failure
                self._durable = told
                continue
            patience.pause(failure)

    def _stream(self) -> Response:
        """Send what isn't durable yet through one stream. Raises grpc.RpcError."""
        gate: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        call = self._method(self._requests(self._durable, gate))
        last = None
        try:
            for answer in call:
                if last is None:
                    gate.put(answer.durable_offset)
                last = answer
                self._durable = answer.durable_offset
                if self._on_progress is not None:
                    self._on_progress(self._durable, self._size_bytes)
        finally:
            # Whoever sends may still wait for the first answer, or be in the middle of the file.
            gate.put(None)
            call.cancel()
        if last is None or last.durable_offset != self._size_bytes:
            raise errors.ApiError(
                code=grpc.StatusCode.INTERNAL,
                message=f"the daemon ended the upload at offset {self._durable} of {self._size_bytes}",
            )
        return last

    def _requests(self, offset: int, gate: queue.SimpleQueue[int | None]) -> Iterator[Request]:
        """Yield the stream's messages. The first answer says where to go on; it runs in a thread of gRPC's."""
        yield self._begin(offset)
        start = gate.get()
        if start is None:
            return
        try:
            for piece in image.pieces(self._fd, start, self._size_bytes):
                yield self._wrap(piece)
        except OSError as error:
            # The stream ends early, the daemon refuses that, and `run` tells the true cause.
            self._unreadable = error
