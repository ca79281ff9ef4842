"""EnvironmentService: convert, call, convert."""

from typing import Any

from snapd import model
from snapd.rpc import convert, names
from snapd.rpc.edge import Edge
from snapd.v1 import environment_service_pb2 as messages
from snapd.v1 import environment_service_pb2_grpc

_CHANGEABLE = {"display_name": "display_name", "labels": "labels", "retention_duration": "retention"}


class EnvironmentServicer(environment_service_pb2_grpc.EnvironmentServiceServicer):
    """Serves environments on one listener."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._environments = edge.service.environments

    async def CreateEnvironment(
        self, request: messages.CreateEnvironmentRequest, context: Any
    ) -> messages.CreateEnvironmentResponse:
        asked = self._edge.request(request, "CreateEnvironment", "")
        created = await self._edge.workers.run(
            self._environments.create,
            asked,
            request.environment_id,
            request.environment.display_name,
            dict(request.environment.labels),
            convert.retention(request.environment),
        )
        return messages.CreateEnvironmentResponse(environment=convert.environment(created))

    async def GetEnvironment(
        self, request: messages.GetEnvironmentRequest, context: Any
    ) -> messages.GetEnvironmentResponse:
        found = self._environments.get(names.last_id(request.name))
        return messages.GetEnvironmentResponse(environment=convert.environment(found))

    async def GetEnvironmentUsage(
        self, request: messages.GetEnvironmentUsageRequest, context: Any
    ) -> messages.GetEnvironmentUsageResponse:
        usage = await self._edge.workers.run(self._edge.service.usages.of_environment, names.last_id(request.name))
        return messages.GetEnvironmentUsageResponse(usage=convert.environment_usage(usage))

    async def ListEnvironments(
        self, request: messages.ListEnvironmentsRequest, context: Any
    ) -> messages.ListEnvironmentsResponse:
        query = convert.query(request, self._edge.identity.name, "")
        return await self._edge.listed(query, self._list)

    def _list(self, query: model.Query) -> messages.ListEnvironmentsResponse:
        page = self._environments.list(query)
        return messages.ListEnvironmentsResponse(
            environments=map(convert.environment, page.items), next_page_token=page.next_page_token
        )

    async def UpdateEnvironment(
        self, request: messages.UpdateEnvironmentRequest, context: Any
    ) -> messages.UpdateEnvironmentResponse:
        environment_id = names.last_id(request.environment.name)
        updated = await self._edge.workers.run(
            self._environments.update,
            self._edge.request(request, "UpdateEnvironment", ""),
            environment_id,
            request.environment.etag,
            convert.changes(request.environment, request.update_mask, _CHANGEABLE),
        )
        return messages.UpdateEnvironmentResponse(environment=convert.environment(updated))

    async def DeleteEnvironment(
        self, request: messages.DeleteEnvironmentRequest, context: Any
    ) -> messages.DeleteEnvironmentResponse:
        await self._edge.workers.run(
            self._environments.delete,
            self._edge.request(request, "DeleteEnvironment", ""),
            names.last_id(request.name),
            request.etag,
            request.allow_missing,
        )
        return messages.DeleteEnvironmentResponse()
