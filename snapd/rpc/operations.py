"""google.longrunning.Operations, unmodified: what is under way, and waiting for it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, message

from snapd import errors, model
from snapd.rpc import convert, names
from snapd.rpc.edge import Edge
from snapd.v1 import snapshot_service_pb2, system_service_pb2, volume_service_pb2

_OWN_RESULTS: Mapping[str, type[message.Message]] = {
    "Scrub": system_service_pb2.ScrubResult,
    "Collect": system_service_pb2.CollectResult,
}
"""What operations of a method answer with that aren't about one resource."""


class OperationsServicer:
    """Serves operations on one listener. (The published class to derive from has no types.)"""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._operations = edge.service.operations

    async def GetOperation(self, request: operations_pb2.GetOperationRequest, context: Any) -> operations_pb2.Operation:
        return self._convert(self._operations.get(*names.ids(request.name)))

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Any
    ) -> operations_pb2.ListOperationsResponse:
        query = convert.query(request, self._edge.identity.name, names.environment_id(request.name))
        return await self._edge.listed(query, self._list)

    def _list(self, query: model.Query) -> operations_pb2.ListOperationsResponse:
        page = self._operations.list(query)
        return operations_pb2.ListOperationsResponse(
            operations=map(self._convert, page.items), next_page_token=page.next_page_token
        )

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Any
    ) -> operations_pb2.Operation:
        loop = asyncio.get_running_loop()
        timeout_s = request.timeout.ToTimedelta().total_seconds() if request.HasField("timeout") else None
        deadline = None if timeout_s is None else loop.time() + timeout_s
        while True:
            ticket = self._edge.hub.ticket()
            found = self._operations.get(*names.ids(request.name))
            left_s = None if deadline is None else deadline - loop.time()
            if found.done or (left_s is not None and left_s <= 0):
                return self._convert(found)
            await self._edge.hub.wait(ticket, left_s)

    async def CancelOperation(self, request: operations_pb2.CancelOperationRequest, context: Any) -> empty_pb2.Empty:
        await self._edge.workers.run(self._operations.cancel, *names.ids(request.name))
        return empty_pb2.Empty()

    async def DeleteOperation(self, request: operations_pb2.DeleteOperationRequest, context: Any) -> empty_pb2.Empty:
        await self._edge.workers.run(self._operations.delete, *names.ids(request.name))
        return empty_pb2.Empty()

    def _convert(self, found: model.Operation) -> operations_pb2.Operation:
        succeeded = found.done and found.error is None
        return convert.operation(found, self._result(found) if succeeded else None)

    def _result(self, found: model.Operation) -> message.Message:
        """Return the resource as it is, or its name and uid alone if it is gone or another has its name."""
        if found.method.startswith("Delete"):
            return empty_pb2.Empty()
        if found.result is not None:
            return _OWN_RESULTS[found.method](**found.result)
        service = self._edge.service
        environment_id, resource_id = names.ids(found.target)
        try:
            if names.matches(names.SNAPSHOT, found.target):
                snapshot = service.snapshots.get(environment_id, resource_id)
                if snapshot.uid == found.target_uid:
                    return convert.snapshot(
                        snapshot, service.snapshots.space(snapshot), service.attachments.of(snapshot)
                    )
            else:
                volume = service.volumes.get(environment_id, resource_id)
                if volume.uid == found.target_uid:
                    return convert.volume(volume, service.volumes.space(volume), service.attachments.of(volume))
        except errors.NotFound:
            pass
        if names.matches(names.SNAPSHOT, found.target):
            return snapshot_service_pb2.Snapshot(name=found.target, uid=found.target_uid)
        return volume_service_pb2.Volume(name=found.target, uid=found.target_uid)
