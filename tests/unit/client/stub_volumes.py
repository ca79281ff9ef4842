"""The volumes of the small server: the part that has streams."""

from collections.abc import Iterator
from typing import Any

import google_crc32c
import grpc

from snapd.v1 import (
    attachment_pb2,
    transfer_pb2,
    volume_service_pb2,
    volume_service_pb2_grpc,
)
from tests.unit.client import stub_memory


class Volumes(volume_service_pb2_grpc.VolumeServiceServicer):
    """Its volumes."""

    def __init__(self, memory: stub_memory.Memory) -> None:
        self._memory = memory

    def _make(self, parent: str, volume_id: str, template: Any, size_bytes: int, state: Any) -> Any:
        volume = volume_service_pb2.Volume()
        volume.CopyFrom(template)
        volume.name = f"{parent}/volumes/{volume_id or 'generated'}"
        volume.size_bytes = size_bytes
        volume.state = state
        self._memory.resources[volume.name] = volume
        return volume

    def CreateVolume(self, request: Any, context: Any) -> Any:
        self._memory.begin("CreateVolume", request, context)
        size_bytes = request.volume.size_bytes
        if request.volume.source_snapshot:
            size_bytes = self._memory.find(request.volume.source_snapshot, context).size_bytes
        ready = volume_service_pb2.Volume.STATE_READY
        volume = self._make(request.parent, request.volume_id, request.volume, size_bytes, ready)
        self._memory.contents[volume.name] = bytearray(volume.size_bytes)
        operation = self._memory.operation("snapd.v1.VolumeService/CreateVolume", volume.name, volume)
        return volume_service_pb2.CreateVolumeResponse(volume=volume, operation=operation)

    def GetVolume(self, request: Any, context: Any) -> Any:
        self._memory.begin("GetVolume", request, context)
        return volume_service_pb2.GetVolumeResponse(volume=self._memory.find(request.name, context))

    def ListVolumes(self, request: Any, context: Any) -> Any:
        self._memory.begin("ListVolumes", request, context)
        found, token = self._memory.page(request, "volumes")
        return volume_service_pb2.ListVolumesResponse(volumes=found, next_page_token=token)

    def UpdateVolume(self, request: Any, context: Any) -> Any:
        self._memory.begin("UpdateVolume", request, context)
        volume = self._memory.find(request.volume.name, context)
        request.update_mask.MergeMessage(request.volume, volume, True, True)
        return volume_service_pb2.UpdateVolumeResponse(volume=volume)

    def RevertVolume(self, request: Any, context: Any) -> Any:
        self._memory.begin("RevertVolume", request, context)
        volume = self._memory.find(request.name, context)
        operation = self._memory.operation("snapd.v1.VolumeService/RevertVolume", volume.name, volume)
        return volume_service_pb2.RevertVolumeResponse(volume=volume, operation=operation)

    def DeleteVolume(self, request: Any, context: Any) -> Any:
        self._memory.begin("DeleteVolume", request, context)
        volume = self._memory.find(request.name, context)
        del self._memory.resources[volume.name]
        operation = self._memory.operation("snapd.v1.VolumeService/DeleteVolume", volume.name)
        return volume_service_pb2.DeleteVolumeResponse(volume=volume, operation=operation)

    def AttachVolume(self, request: Any, context: Any) -> Any:
        self._memory.begin("AttachVolume", request, context)
        volume = self._memory.find(request.name, context)
        volume.attachment.state = attachment_pb2.Attachment.STATE_ATTACHED
        volume.attachment.limits.CopyFrom(request.limits)
        volume.attachment.nbd.CopyFrom(attachment_pb2.Attachment.Nbd(socket="/run/nbd.sock", export="disk"))
        operation = self._memory.operation("snapd.v1.VolumeService/AttachVolume", volume.name, volume)
        return volume_service_pb2.AttachVolumeResponse(volume=volume, operation=operation)

    def DetachVolume(self, request: Any, context: Any) -> Any:
        self._memory.begin("DetachVolume", request, context)
        volume = self._memory.find(request.name, context)
        volume.ClearField("attachment")
        operation = self._memory.operation("snapd.v1.VolumeService/DetachVolume", volume.name, volume)
        return volume_service_pb2.DetachVolumeResponse(volume=volume, operation=operation)

    def SetVolumeLimits(self, request: Any, context: Any) -> Any:
        self._memory.begin("SetVolumeLimits", request, context)
        volume = self._memory.find(request.name, context)
        volume.attachment.limits.CopyFrom(request.limits)
        return volume_service_pb2.SetVolumeLimitsResponse(volume=volume)

    def ImportVolume(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        start = next(request_iterator).start
        self._memory.begin("ImportVolume", start, context)
        name = f"{start.parent}/volumes/{start.volume_id or 'generated'}"
        creating, ready = volume_service_pb2.Volume.STATE_CREATING, volume_service_pb2.Volume.STATE_READY
        if name not in self._memory.resources:
            self._make(start.parent, start.volume_id, start.volume, start.size_bytes, creating)
            self._memory.contents[name] = bytearray()
        volume, content = self._memory.resources[name], self._memory.contents[name]
        if start.resume_offset != len(content):
            found = stub_memory.status(
                grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_OFFSET", durable_offset=str(len(content))
            )
            stub_memory.fail(context, found)
        yield volume_service_pb2.ImportVolumeResponse(durable_offset=len(content), volume=volume)
        for request in request_iterator:
            self._store(request, content, context, growing=True)
            yield volume_service_pb2.ImportVolumeResponse(durable_offset=len(content))
        if len(content) != start.size_bytes:
            stub_memory.fail(context, stub_memory.status(grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE"))
        volume.state = ready
        operation = self._memory.operation("snapd.v1.VolumeService/ImportVolume", name, volume)
        yield volume_service_pb2.ImportVolumeResponse(durable_offset=len(content), volume=volume, operation=operation)

    def WriteBlocks(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        start = next(request_iterator).start
        self._memory.begin("WriteBlocks", start, context)
        content = self._memory.contents[self._memory.find(start.name, context).name]
        yield volume_service_pb2.WriteBlocksResponse(durable_offset=0)
        for request in request_iterator:
            end = self._store(request, content, context, growing=False)
            yield volume_service_pb2.WriteBlocksResponse(durable_offset=end)

    def _store(self, request: Any, content: bytearray, context: Any, *, growing: bool) -> int:
        piece = request.data if request.HasField("data") else request.hole
        data = request.data.data if request.HasField("data") else bytes(request.hole.length)
        if request.HasField("data") and google_crc32c.value(data) != request.data.crc32c:
            stub_memory.fail(context, stub_memory.status(grpc.StatusCode.INVALID_ARGUMENT, "CHECKSUM_MISMATCH"))
        if self._memory.cuts and self._memory.cuts[0] < piece.offset + len(data):
            self._memory.cuts.popleft()
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if self._memory.refused_at is not None and self._memory.refused_at <= piece.offset:
            stub_memory.fail(context, stub_memory.status(grpc.StatusCode.RESOURCE_EXHAUSTED, "POOL_FULL"))
        assert not growing or piece.offset == len(content)
        content[piece.offset : piece.offset + len(data)] = data
        return int(piece.offset) + len(data)

    def GetVolumeChain(self, request: Any, context: Any) -> Any:
        self._memory.begin("GetVolumeChain", request, context)
        volume = self._memory.find(request.name, context)
        parent = request.name.rpartition("/")[0]
        layer = volume_service_pb2.Layer
        head = layer(state=layer.STATE_HEAD, size_bytes=volume.size_bytes, allocated_bytes=1 << 20)
        below = layer(
            depth=1,
            state=layer.STATE_FROZEN,
            size_bytes=volume.size_bytes,
            allocated_bytes=3 << 20,
            snapshots=[f"{parent.removesuffix('/volumes')}/snapshots/golden"],
            volumes=[f"{parent}/clone-{number}" for number in range(4)],
            volume_count=5,
        )
        return volume_service_pb2.GetVolumeChainResponse(layers=[head, below])

    def CheckVolume(self, request: Any, context: Any) -> Iterator[Any]:
        self._memory.begin("CheckVolume", request, context)
        self._memory.find(request.name, context)
        answer = volume_service_pb2.CheckVolumeResponse
        for depth, verdict in enumerate(self._memory.verdicts):
            if request.repair and depth == 0:
                yield answer(
                    layer_count=len(self._memory.verdicts),
                    verdict=answer.VERDICT_CLEAN,
                    leaks_fixed=3,
                    total_clusters=16,
                )
            else:
                yield answer(
                    depth=depth, layer_count=len(self._memory.verdicts), verdict=verdict, leaks=depth, total_clusters=16
                )

    def ExportVolume(self, request: Any, context: Any) -> Iterator[Any]:
        self._memory.begin("ExportVolume", request, context)
        source = self._memory.find(request.source, context)
        content = self._memory.contents[source.name]
        answer = volume_service_pb2.ExportVolumeResponse
        yield answer(start=answer.Start(size_bytes=len(content), source_uid=source.uid))
        sent = {"data": 0, "hole": 0}
        for offset in range(request.start_offset, len(content), 1 << 20):
            if self._memory.cuts and self._memory.cuts[0] <= offset:
                self._memory.cuts.popleft()
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            data = bytes(content[offset : offset + (1 << 20)])
            if data.count(0) == len(data):
                sent["hole"] += len(data)
                yield answer(hole=transfer_pb2.Hole(offset=offset, length=len(data)))
                continue
            sent["data"] += len(data)
            crc32c = google_crc32c.value(data) ^ self._memory.corrupt
            yield answer(data=transfer_pb2.DataChunk(offset=offset, data=data, crc32c=crc32c))
        yield answer(end=answer.End(data_bytes=sent["data"], hole_bytes=sent["hole"]))
