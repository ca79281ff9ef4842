"""CheckVolume: verdicts from the service onto the wire, one file after the other."""

from collections.abc import AsyncIterator

from snapd.rpc import names
from snapd.rpc.edge import Edge
from snapd.service import checking as service_checking
from snapd.v1 import volume_service_pb2 as messages


async def check_volume(edge: Edge, request: messages.CheckVolumeRequest) -> AsyncIterator[messages.CheckVolumeResponse]:
    """Send the verdict on each file of a detached volume (see the proto)."""
    lane = edge.workers.lane()
    check = await lane.open(edge.service.checks.begin, *names.ids(request.name), mend=request.repair)
    try:
        while found := await lane.run(check.next):
            yield verdict(found)
    finally:
        await lane.finish(check.close)


def verdict(found: service_checking.LayerCheck) -> messages.CheckVolumeResponse:
    """Return the verdict on one file of a volume."""
    answer = messages.CheckVolumeResponse
    result = answer(
        depth=found.depth,
        layer_count=found.layers,
        problem=found.problem,
        leaks_fixed=found.leaks_fixed,
        corruptions_fixed=found.corruptions_fixed,
        verdict=answer.VERDICT_CORRUPT,
    )
    report = found.report
    if report is not None:
        result.corruptions = report.corruptions
        result.check_errors = report.check_errors
        result.leaks = report.leaks
        result.total_clusters = report.total_clusters
        result.allocated_clusters = report.allocated_clusters
        result.fragmented_clusters = report.fragmented_clusters
        result.compressed_clusters = report.compressed_clusters
        result.image_end_offset = report.image_end_bytes
        if report.clean:
            result.verdict = answer.VERDICT_CLEAN
        elif not (report.corruptions or report.check_errors):
            result.verdict = answer.VERDICT_LEAKING
    return result
