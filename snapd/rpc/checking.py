"""CheckVolume: verdicts from the service onto the wire, one file after the other."""

from collections.abc import AsyncIterator

from snapd.rpc import convert, names
from snapd.rpc.edge import Edge
from snapd.v1 import volume_service_pb2 as messages


async def check_volume(edge: Edge, request: messages.CheckVolumeRequest) -> AsyncIterator[messages.CheckVolumeResponse]:
    """Send the verdict on each file of a detached volume (see the proto)."""
    lane = edge.workers.lane()
    check = await lane.open(edge.service.checks.begin, *names.ids(request.name), mend=request.repair)
    try:
        while found := await lane.run(check.next):
            yield convert.layer_check(found)
    finally:
        await lane.finish(check.close)
