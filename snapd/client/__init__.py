"""The Python client of the daemon: a channel with the right deadlines and retries, typed errors, waiting, transfers.

It speaks the API of protos/snapd/v1 and nothing else: it must not know how the daemon works, and needs none of the
daemon's dependencies. It is synchronous and safe to use from several threads.

    with client.connect("/run/snapd-storage/snapd-storage.sock") as connection:
        answer = connection.volumes.CreateVolume(request)
        waiting.wait(connection, answer.operation)
"""

from snapd.client.connection import DEFAULT_ADDRESS, Client, connect
from snapd.client.errors import ApiError

__all__ = ["DEFAULT_ADDRESS", "ApiError", "Client", "connect"]
