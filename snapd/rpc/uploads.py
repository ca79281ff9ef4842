"""ImportVolume and WriteBlocks: chunks from the wire into the service, in order, one ahead, durable every so often."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TypeVar

from snapd import errors, units
from snapd.rpc import chunks, constraints, convert, interceptor, names, workers
from snapd.rpc.edge import Edge
from snapd.service import transfers, volumes
from snapd.v1 import transfer_pb2
from snapd.v1 import volume_service_pb2 as messages

R = TypeVar("R", messages.ImportVolumeRequest, messages.WriteBlocksRequest)

FLUSH_EVERY = 64 * units.MIB
"""Bytes after which what came is made durable and the client is told."""


async def import_volume(
    edge: Edge, requests: AsyncIterator[messages.ImportVolumeRequest]
) -> AsyncIterator[messages.ImportVolumeResponse]:
    """Make a volume from an image (see the proto)."""
    start = _start(await anext(requests, None)).start
    interceptor.bind_target(start)
    constraints.check("ImportVolume", start)
    if start.format == messages.IMAGE_FORMAT_RAW and start.size_bytes % units.SECTOR:
        raise errors.InvalidField(field="size_bytes", problem=f"must be a multiple of {units.SECTOR} for a raw image")
    environment_id = names.environment_id(start.parent)
    spec = volumes.VolumeSpec(
        display_name=start.volume.display_name,
        labels=dict(start.volume.labels),
        role=convert.role(start.volume.role),
        instance=start.volume.instance,
        size_bytes=0,
        source_snapshot_id="",
    )
    lane = edge.workers.lane()
    upload = await lane.open(
        edge.service.transfers.begin_import,
        edge.request(start, "ImportVolume", environment_id),
        environment_id,
        start.volume_id,
        spec,
        convert.image_format(start.format),
        start.size_bytes,
        start.resume_offset,
    )
    try:
        begun = convert.volume(upload.volume, edge.service.volumes.space(upload.volume))
        yield messages.ImportVolumeResponse(durable_offset=upload.durable_offset, volume=begun)
        async with aclosing(_receive(lane, upload, requests, "ImportVolume")) as durable_offsets:
            async for durable_offset in durable_offsets:
                yield messages.ImportVolumeResponse(durable_offset=durable_offset)
        volume, operation = await lane.run(upload.finish)
        yield messages.ImportVolumeResponse(
            durable_offset=upload.durable_offset,
            volume=convert.volume(volume, edge.service.volumes.space(volume)),
            operation=convert.operation_name(operation),
        )
    finally:
        await lane.finish(upload.close)


async def write_blocks(
    edge: Edge, requests: AsyncIterator[messages.WriteBlocksRequest]
) -> AsyncIterator[messages.WriteBlocksResponse]:
    """Write ranges of a detached volume (see the proto)."""
    start = _start(await anext(requests, None)).start
    interceptor.bind_target(start)
    constraints.check("WriteBlocks", start)
    environment_id, volume_id = names.ids(start.name)
    lane = edge.workers.lane()
    upload = await lane.open(
        edge.service.transfers.begin_write,
        edge.request(start, "WriteBlocks", environment_id),
        environment_id,
        volume_id,
        start.etag,
    )
    try:
        yield messages.WriteBlocksResponse(durable_offset=0)
        async with aclosing(_receive(lane, upload, requests, "WriteBlocks")) as durable_offsets:
            async for durable_offset in durable_offsets:
                yield messages.WriteBlocksResponse(durable_offset=durable_offset)
        await lane.run(upload.finish)
        yield messages.WriteBlocksResponse(durable_offset=upload.durable_offset)
    finally:
        await lane.finish(upload.close)


def _start(first: R | None) -> R:
    if first is None or first.WhichOneof("message") != "start":
        raise errors.InvalidField(field="start", problem="must be the first message of the stream")
    return first


async def _receive(
    lane: workers.Lane, upload: transfers.Upload, requests: AsyncIterator[R], method: str
) -> AsyncGenerator[int, None]:
    """Hand all chunks to the upload, and yield the durable offset whenever it has moved on by FLUSH_EVERY."""
    unflushed = 0
    async for request in requests:
        match request.WhichOneof("message"):
            case "data":
                constraints.check(f"{method} data", request.data)
                await lane.start(_write, upload, request.data)
                unflushed += len(request.data.data)
            case "hole":
                constraints.check(f"{method} hole", request.hole)
                await lane.start(upload.hole, request.hole.offset, request.hole.length)
                unflushed += request.hole.length
            case _:
                raise errors.InvalidField(field="message", problem="must be data or a hole after the first message")
        if unflushed >= FLUSH_EVERY:
            yield await lane.run(upload.flush)
            unflushed = 0
    await lane.settle()


def _write(upload: transfers.Upload, chunk: transfer_pb2.DataChunk) -> None:
    upload.data(chunk.offset, chunks.verified(chunk))
