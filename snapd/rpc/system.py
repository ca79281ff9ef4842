"""SystemService: the daemon itself."""

import dataclasses
import datetime
from typing import Any

from snapd.rpc import constraints, convert, names, report
from snapd.rpc.edge import Edge
from snapd.v1 import system_service_pb2 as messages
from snapd.v1 import system_service_pb2_grpc

REQUEST_ID_RETENTION = datetime.timedelta(hours=24)
"""Promised to callers; the service keeps them for at least as long."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What the daemon tells of itself."""

    version: str
    started: datetime.datetime
    capabilities: tuple[str, ...]
    chain_depth: int


class SystemServicer(system_service_pb2_grpc.SystemServiceServicer):
    """Serves what concerns the daemon as a whole on one listener."""

    def __init__(self, edge: Edge, info: Info) -> None:
        self._edge = edge
        self._info = info

    async def GetServerInfo(
        self, request: messages.GetServerInfoRequest, context: Any
    ) -> messages.GetServerInfoResponse:
        limits = messages.ServerLimits(
            chunk_size_bytes=constraints.LARGEST_CHUNK,
            page_size=convert.LARGEST_PAGE,
            volume_size_bytes=constraints.LARGEST_VOLUME,
            chain_depth=self._info.chain_depth,
            request_id_retention_duration=convert.duration(REQUEST_ID_RETENTION),
        )
        states = await self._edge.workers.run(self._edge.service.work.states)
        backups = self._edge.service.backups.state()
        return messages.GetServerInfoResponse(
            version=self._info.version,
            start_time=convert.timestamp(self._info.started),
            capabilities=self._info.capabilities,
            limits=limits,
            work=map(convert.work_state, states),
            archive_error=convert.problem(self._edge.service.archive_error()),
            catalog_backup_time=convert.timestamp(backups.newest),
            catalog_backup_error=convert.problem(backups.problem),
        )

    async def GetCapacity(self, request: messages.GetCapacityRequest, context: Any) -> messages.GetCapacityResponse:
        return convert.capacity(await self._edge.workers.run(self._edge.service.capacity))

    async def GetRecoveryReport(
        self, request: messages.GetRecoveryReportRequest, context: Any
    ) -> messages.GetRecoveryReportResponse:
        service = self._edge.service
        return report.recovery_report(service.recovered, service.comparison.compared())

    async def PauseWork(self, request: messages.PauseWorkRequest, context: Any) -> messages.PauseWorkResponse:
        states = await self._edge.workers.run(
            self._edge.service.work.pause,
            self._edge.request(request, "PauseWork", ""),
            convert.workers(request.workers),
            request.reason,
            convert.pause_length(request),
        )
        return messages.PauseWorkResponse(work=map(convert.work_state, states))

    async def ResumeWork(self, request: messages.ResumeWorkRequest, context: Any) -> messages.ResumeWorkResponse:
        states = await self._edge.workers.run(
            self._edge.service.work.resume,
            self._edge.request(request, "ResumeWork", ""),
            convert.workers(request.workers),
        )
        return messages.ResumeWorkResponse(work=map(convert.work_state, states))

    async def Scrub(self, request: messages.ScrubRequest, context: Any) -> messages.ScrubResponse:
        return messages.ScrubResponse(operations=await self._of_environments(request, "Scrub"))

    async def Collect(self, request: messages.CollectRequest, context: Any) -> messages.CollectResponse:
        return messages.CollectResponse(operations=await self._of_environments(request, "Collect"))

    async def _of_environments(
        self, request: messages.ScrubRequest | messages.CollectRequest, method: str
    ) -> list[str]:
        """Begin a method on an environment, or on all, and return the operations' names."""
        environment_id = names.environment_id(request.parent)
        asked = self._edge.request(request, method, environment_id)
        begun = await self._edge.workers.run(self._edge.service.upkeep.of_environments, asked, environment_id)
        return [convert.operation_name(operation) for operation in begun]
