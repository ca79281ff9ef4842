"""VolumeService: convert, call, convert. The streams are told in uploads and downloads."""

from collections.abc import AsyncIterator
from typing import Any

from snapd import errors, model
from snapd.rpc import checking, convert, downloads, names, uploads
from snapd.rpc.edge import Edge
from snapd.service import volumes
from snapd.v1 import volume_service_pb2 as messages
from snapd.v1 import volume_service_pb2_grpc

_CHANGEABLE = {"display_name": "display_name", "labels": "labels", "instance": "instance"}


class VolumeServicer(volume_service_pb2_grpc.VolumeServiceServicer):
    """Serves volumes on one listener."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._volumes = edge.service.volumes
        self._attachments = edge.service.attachments

    def _convert(self, found: model.Volume) -> messages.Volume:
        return convert.volume(found, self._volumes.space(found), self._attachments.of(found))

    async def CreateVolume(self, request: messages.CreateVolumeRequest, context: Any) -> messages.CreateVolumeResponse:
        environment_id = names.environment_id(request.parent)
        volume = request.volume
        if volume.source_snapshot and names.environment_id(volume.source_snapshot) != environment_id:
            raise errors.InvalidField(field="volume.source_snapshot", problem=f"must be of {request.parent}")
        if not volume.WhichOneof("source") and not volume.size_bytes:
            raise errors.InvalidField(field="volume.size_bytes", problem="is required without a source")
        spec = volumes.VolumeSpec(
            display_name=volume.display_name,
            labels=dict(volume.labels),
            role=convert.role(volume.role),
            instance=volume.instance,
            size_bytes=volume.size_bytes,
            source_snapshot_id=names.last_id(volume.source_snapshot),
            source_place=convert.archive_place(volume.source_archived_snapshot),
        )
        asked = self._edge.request(request, "CreateVolume", environment_id)
        created, operation = await self._edge.workers.run(
            self._volumes.create, asked, environment_id, request.volume_id, spec
        )
        return messages.CreateVolumeResponse(volume=self._convert(created), operation=convert.operation_name(operation))

    async def GetVolume(self, request: messages.GetVolumeRequest, context: Any) -> messages.GetVolumeResponse:
        return messages.GetVolumeResponse(volume=self._convert(self._volumes.get(*names.ids(request.name))))

    async def GetVolumeChain(
        self, request: messages.GetVolumeChainRequest, context: Any
    ) -> messages.GetVolumeChainResponse:
        links = await self._edge.workers.run(self._edge.service.chains.of_volume, *names.ids(request.name))
        return messages.GetVolumeChainResponse(layers=(convert.layer(depth, link) for depth, link in enumerate(links)))

    async def ListVolumes(self, request: messages.ListVolumesRequest, context: Any) -> messages.ListVolumesResponse:
        query = convert.query(request, self._edge.identity.name, names.environment_id(request.parent))
        return await self._edge.listed(query, self._list)

    def _list(self, query: model.Query) -> messages.ListVolumesResponse:
        page = self._volumes.list(query)
        return messages.ListVolumesResponse(
            volumes=map(self._convert, page.items), next_page_token=page.next_page_token
        )

    async def UpdateVolume(self, request: messages.UpdateVolumeRequest, context: Any) -> messages.UpdateVolumeResponse:
        environment_id, volume_id = names.ids(request.volume.name)
        updated = await self._edge.workers.run(
            self._volumes.update,
            self._edge.request(request, "UpdateVolume", environment_id),
            environment_id,
            volume_id,
            request.volume.etag,
            convert.changes(request.volume, request.update_mask, _CHANGEABLE),
        )
        return messages.UpdateVolumeResponse(volume=self._convert(updated))

    async def RevertVolume(self, request: messages.RevertVolumeRequest, context: Any) -> messages.RevertVolumeResponse:
        environment_id, volume_id = names.ids(request.name)
        snapshot_environment_id, snapshot_id = names.ids(request.snapshot)
        if snapshot_environment_id != environment_id:
            raise errors.SnapshotOfAnotherVolume(snapshot=request.snapshot, volume=request.name)
        asked = self._edge.request(request, "RevertVolume", environment_id)
        volume, operation = await self._edge.workers.run(
            self._volumes.revert, asked, environment_id, volume_id, snapshot_id, request.etag
        )
        return messages.RevertVolumeResponse(volume=self._convert(volume), operation=convert.operation_name(operation))

    async def DeleteVolume(self, request: messages.DeleteVolumeRequest, context: Any) -> messages.DeleteVolumeResponse:
        environment_id, volume_id = names.ids(request.name)
        asked = self._edge.request(request, "DeleteVolume", environment_id)
        volume, operation = await self._edge.workers.run(
            self._volumes.delete, asked, environment_id, volume_id, request.etag, request.allow_missing
        )
        return messages.DeleteVolumeResponse(
            volume=None if volume is None else self._convert(volume), operation=convert.operation_name(operation)
        )

    async def AttachVolume(self, request: messages.AttachVolumeRequest, context: Any) -> messages.AttachVolumeResponse:
        environment_id, volume_id = names.ids(request.name)
        asked = self._edge.request(request, "AttachVolume", environment_id)
        volume, operation = await self._edge.workers.run(
            self._attachments.attach, asked, environment_id, volume_id, convert.attachment_spec(request), request.etag
        )
        return messages.AttachVolumeResponse(volume=self._convert(volume), operation=convert.operation_name(operation))

    async def DetachVolume(self, request: messages.DetachVolumeRequest, context: Any) -> messages.DetachVolumeResponse:
        environment_id, volume_id = names.ids(request.name)
        asked = self._edge.request(request, "DetachVolume", environment_id)
        volume, operation = await self._edge.workers.run(
            self._attachments.detach, asked, environment_id, volume_id, request.etag, request.force
        )
        return messages.DetachVolumeResponse(volume=self._convert(volume), operation=convert.operation_name(operation))

    async def SetVolumeLimits(
        self, request: messages.SetVolumeLimitsRequest, context: Any
    ) -> messages.SetVolumeLimitsResponse:
        environment_id, volume_id = names.ids(request.name)
        asked = self._edge.request(request, "SetVolumeLimits", environment_id)
        volume = await self._edge.workers.run(
            self._attachments.set_limits,
            asked,
            environment_id,
            volume_id,
            request.etag,
            convert.limits(request.limits),
        )
        return messages.SetVolumeLimitsResponse(volume=self._convert(volume))

    def ImportVolume(
        self, request_iterator: AsyncIterator[messages.ImportVolumeRequest], context: Any
    ) -> AsyncIterator[messages.ImportVolumeResponse]:
        return uploads.import_volume(self._edge, request_iterator)

    def WriteBlocks(
        self, request_iterator: AsyncIterator[messages.WriteBlocksRequest], context: Any
    ) -> AsyncIterator[messages.WriteBlocksResponse]:
        return uploads.write_blocks(self._edge, request_iterator)

    def ExportVolume(
        self, request: messages.ExportVolumeRequest, context: Any
    ) -> AsyncIterator[messages.ExportVolumeResponse]:
        return downloads.export_volume(self._edge, request)

    def CheckVolume(
        self, request: messages.CheckVolumeRequest, context: Any
    ) -> AsyncIterator[messages.CheckVolumeResponse]:
        return checking.check_volume(self._edge, request)
