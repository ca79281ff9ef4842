"""What every servicer of a listener stands on."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from google.protobuf import message

from snapd import model
from snapd.rpc import convert, hub, identity, workers
from snapd.service import service as services

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Edge:
    """The service, the threads in which it is called, and who calls."""

    service: services.Service
    identity: identity.Identity
    workers: workers.Workers
    hub: hub.Hub

    def request(self, message_: message.Message, method: str, environment_id: str) -> model.Request:
        """Return who asks for a change, and with which request."""
        return convert.request(message_, self.identity.name, method, environment_id)

    async def listed(self, query: model.Query, function: Callable[[model.Query], T]) -> T:
        """Answer a listing: at once if it is a cheap one, else in a thread, so that the event loop isn't held up."""
        if not query.filter and query.page_size <= convert.DEFAULT_PAGE:
            return function(query)
        return await self.workers.run(function, query)
