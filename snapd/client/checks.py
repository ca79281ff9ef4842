"""Checks of a volume's files, told one after the other."""

from collections.abc import Iterator

import grpc

from snapd.client import connection, errors
from snapd.v1 import volume_service_pb2


def check_volume(
    client: connection.Client, name: str, *, repair: bool = False
) -> Iterator[volume_service_pb2.CheckVolumeResponse]:
    """Yield the verdict on each image file of a detached volume, the head first, once it is known.

    `repair` has leaks and wrong refcounts of the head put right before. Raises errors.ApiError, whose code is
    UNAVAILABLE if the connection broke or the daemon stopped; the check may be repeated then.
    """
    request = volume_service_pb2.CheckVolumeRequest(name=name, repair=repair)
    try:
        yield from client.volumes.CheckVolume(request)
    except grpc.RpcError as error:
        raise errors.from_rpc_error(error) from error
