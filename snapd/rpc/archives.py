"""ArchiveService: what lies in the archive, whoever put it there."""

from typing import Any

from snapd.rpc import convert, names
from snapd.rpc.edge import Edge
from snapd.service import archives
from snapd.v1 import archive_service_pb2 as messages
from snapd.v1 import archive_service_pb2_grpc

_USUAL_PAGE = 100


class ArchiveServicer(archive_service_pb2_grpc.ArchiveServiceServicer):
    """Serves the archive on one listener. It asks the archive's store, so nothing here runs in the event loop."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._archives = edge.service.archives

    async def ListArchiveHosts(
        self, request: messages.ListArchiveHostsRequest, context: Any
    ) -> messages.ListArchiveHostsResponse:
        page_size = min(request.page_size or _USUAL_PAGE, convert.LARGEST_PAGE)
        found, token = await self._edge.workers.run(self._archives.hosts, page_size, request.page_token)
        return messages.ListArchiveHostsResponse(archive_hosts=map(_host, found), next_page_token=token)

    async def ListArchivedSnapshots(
        self, request: messages.ListArchivedSnapshotsRequest, context: Any
    ) -> messages.ListArchivedSnapshotsResponse:
        page_size = min(request.page_size or _USUAL_PAGE, convert.LARGEST_PAGE)
        found, token = await self._edge.workers.run(
            self._archives.snapshots, names.last_id(request.parent), page_size, request.page_token
        )
        return messages.ListArchivedSnapshotsResponse(archived_snapshots=map(_snapshot, found), next_page_token=token)


def _host(found: archives.Host) -> messages.ArchiveHost:
    return messages.ArchiveHost(
        name=f"hosts/{found.name}", own=found.own, last_seen_time=convert.timestamp(found.last_seen)
    )


def _snapshot(found: archives.Archived) -> messages.ArchivedSnapshot:
    return messages.ArchivedSnapshot(
        name=found.place.name,
        environment_id=found.environment_id,
        snapshot_id=found.snapshot_id,
        display_name=found.display_name,
        volume_id=found.volume_id,
        capture_time=convert.timestamp(found.captured),
        size_bytes=found.size_bytes,
        stored_bytes=found.stored_bytes,
        problem=found.problem,
    )
