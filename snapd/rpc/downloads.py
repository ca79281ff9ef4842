"""ExportVolume: pieces from the service onto the wire, one batch ahead of the client."""

from collections.abc import AsyncIterator, Iterator

from snapd.rpc import chunks, constraints, names, workers
from snapd.rpc.edge import Edge
from snapd.service import transfers
from snapd.v1 import transfer_pb2
from snapd.v1 import volume_service_pb2 as messages

_MOST_MESSAGES = 64
"""Messages of one batch, which is bounded in bytes too."""


async def export_volume(
    edge: Edge, request: messages.ExportVolumeRequest
) -> AsyncIterator[messages.ExportVolumeResponse]:
    """Send the contents of a snapshot or of a detached volume (see the proto)."""
    ids = names.ids(request.source)
    lane = edge.workers.lane()
    if names.matches(names.SNAPSHOT, request.source):
        source_uid = edge.service.snapshots.get(*ids).uid
        export = await lane.open(edge.service.transfers.export_snapshot, *ids)
    else:
        source_uid = edge.service.volumes.get(*ids).uid
        export = await lane.open(edge.service.transfers.export_volume, *ids)
    try:
        start = messages.ExportVolumeResponse.Start(size_bytes=export.size_bytes, source_uid=source_uid)
        pieces = export.pieces(request.start_offset)
        yield messages.ExportVolumeResponse(start=start)
        end = messages.ExportVolumeResponse.End()
        ahead = await lane.start(_batch, pieces)
        while batch := await workers.result(ahead):
            ahead = await lane.start(_batch, pieces)
            for answer in batch:
                end.data_bytes += len(answer.data.data)
                end.hole_bytes += answer.hole.length
                yield answer
        yield messages.ExportVolumeResponse(end=end)
    finally:
        await lane.finish(export.close)


def _batch(pieces: Iterator[transfers.Piece]) -> list[messages.ExportVolumeResponse]:
    """Return the next messages, about one chunk's bytes of them; none at the end."""
    batch: list[messages.ExportVolumeResponse] = []
    size_bytes = 0
    while size_bytes < constraints.LARGEST_CHUNK and len(batch) < _MOST_MESSAGES:
        piece = next(pieces, None)
        if piece is None:
            break
        batch += _messages(piece)
        size_bytes += 0 if piece.data is None else piece.length
    return batch


def _messages(piece: transfers.Piece) -> Iterator[messages.ExportVolumeResponse]:
    if piece.data is None:
        hole = transfer_pb2.Hole(offset=piece.offset, length=piece.length)
        yield messages.ExportVolumeResponse(hole=hole)
        return
    for begin in range(0, piece.length, constraints.LARGEST_CHUNK):
        data = piece.data[begin : begin + constraints.LARGEST_CHUNK]
        yield messages.ExportVolumeResponse(data=chunks.chunk(piece.offset + begin, data))
