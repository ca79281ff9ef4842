"""SnapshotService: convert, call, convert."""

from typing import Any

from snapd import errors, model
from snapd.rpc import convert, names
from snapd.rpc.edge import Edge
from snapd.service import snapshots
from snapd.v1 import snapshot_service_pb2 as messages
from snapd.v1 import snapshot_service_pb2_grpc

_CHANGEABLE = {"display_name": "display_name", "labels": "labels", "retention_duration": "retention"}


class SnapshotServicer(snapshot_service_pb2_grpc.SnapshotServiceServicer):
    """Serves snapshots on one listener."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._snapshots = edge.service.snapshots

    def _convert(self, found: model.Snapshot) -> messages.Snapshot:
        return convert.snapshot(found, self._snapshots.space(found), self._edge.service.attachments.of(found))

    async def CreateSnapshot(
        self, request: messages.CreateSnapshotRequest, context: Any
    ) -> messages.CreateSnapshotResponse:
        environment_id = names.environment_id(request.parent)
        volume_environment_id, volume_id = names.ids(request.snapshot.source_volume)
        if volume_environment_id != environment_id:
            raise errors.InvalidField(field="snapshot.source_volume", problem=f"must be of {request.parent}")
        spec = snapshots.SnapshotSpec(
            rapid=request.rapid,
            display_name=request.snapshot.display_name,
            labels=dict(request.snapshot.labels),
            retention=convert.retention(request.snapshot),
        )
        asked = self._edge.request(request, "CreateSnapshot", environment_id)
        created, operation = await self._edge.workers.run(
            self._snapshots.create, asked, environment_id, request.snapshot_id, volume_id, spec
        )
        return messages.CreateSnapshotResponse(
            snapshot=self._convert(created), operation=convert.operation_name(operation)
        )

    async def GetSnapshot(self, request: messages.GetSnapshotRequest, context: Any) -> messages.GetSnapshotResponse:
        return messages.GetSnapshotResponse(snapshot=self._convert(self._snapshots.get(*names.ids(request.name))))

    async def ListSnapshots(
        self, request: messages.ListSnapshotsRequest, context: Any
    ) -> messages.ListSnapshotsResponse:
        query = convert.query(request, self._edge.identity.name, names.environment_id(request.parent))
        return await self._edge.listed(query, self._list)

    def _list(self, query: model.Query) -> messages.ListSnapshotsResponse:
        page = self._snapshots.list(query)
        return messages.ListSnapshotsResponse(
            snapshots=map(self._convert, page.items), next_page_token=page.next_page_token
        )

    async def UpdateSnapshot(
        self, request: messages.UpdateSnapshotRequest, context: Any
    ) -> messages.UpdateSnapshotResponse:
        environment_id, snapshot_id = names.ids(request.snapshot.name)
        updated = await self._edge.workers.run(
            self._snapshots.update,
            self._edge.request(request, "UpdateSnapshot", environment_id),
            environment_id,
            snapshot_id,
            request.snapshot.etag,
            convert.changes(request.snapshot, request.update_mask, _CHANGEABLE),
        )
        return messages.UpdateSnapshotResponse(snapshot=self._convert(updated))

    async def DeleteSnapshot(
        self, request: messages.DeleteSnapshotRequest, context: Any
    ) -> messages.DeleteSnapshotResponse:
        environment_id, snapshot_id = names.ids(request.name)
        asked = self._edge.request(request, "DeleteSnapshot", environment_id)
        snapshot, operation = await self._edge.workers.run(
            self._snapshots.delete, asked, environment_id, snapshot_id, request.etag, request.allow_missing
        )
        return messages.DeleteSnapshotResponse(
            snapshot=None if snapshot is None else self._convert(snapshot), operation=convert.operation_name(operation)
        )

    async def ArchiveSnapshot(
        self, request: messages.ArchiveSnapshotRequest, context: Any
    ) -> messages.ArchiveSnapshotResponse:
        environment_id, snapshot_id = names.ids(request.name)
        asked = self._edge.request(request, "ArchiveSnapshot", environment_id)
        snapshot, operation = await self._edge.workers.run(
            self._snapshots.archive, asked, environment_id, snapshot_id, request.etag
        )
        return messages.ArchiveSnapshotResponse(
            snapshot=self._convert(snapshot), operation=convert.operation_name(operation)
        )

    async def VerifySnapshot(
        self, request: messages.VerifySnapshotRequest, context: Any
    ) -> messages.VerifySnapshotResponse:
        environment_id, snapshot_id = names.ids(request.name)
        asked = self._edge.request(request, "VerifySnapshot", environment_id)
        snapshot, operation = await self._edge.workers.run(
            self._edge.service.upkeep.verify, asked, environment_id, snapshot_id, request.etag
        )
        return messages.VerifySnapshotResponse(
            snapshot=self._convert(snapshot), operation=convert.operation_name(operation)
        )

    async def AttachSnapshot(
        self, request: messages.AttachSnapshotRequest, context: Any
    ) -> messages.AttachSnapshotResponse:
        environment_id, snapshot_id = names.ids(request.name)
        snapshot, operation = await self._edge.workers.run(
            self._edge.service.snapshot_attachments.attach,
            self._edge.request(request, "AttachSnapshot", environment_id),
            environment_id,
            snapshot_id,
            convert.way(request.way),
            convert.limits(request.limits),
            request.etag,
        )
        return messages.AttachSnapshotResponse(
            snapshot=self._convert(snapshot), operation=convert.operation_name(operation)
        )

    async def DetachSnapshot(
        self, request: messages.DetachSnapshotRequest, context: Any
    ) -> messages.DetachSnapshotResponse:
        environment_id, snapshot_id = names.ids(request.name)
        asked = self._edge.request(request, "DetachSnapshot", environment_id)
        snapshot, operation = await self._edge.workers.run(
            self._edge.service.snapshot_attachments.detach, asked, environment_id, snapshot_id, request.etag
        )
        return messages.DetachSnapshotResponse(
            snapshot=self._convert(snapshot), operation=convert.operation_name(operation)
        )
