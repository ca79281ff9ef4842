"""Lists as iterators over all their pages. It owns the page tokens, and must not know what is listed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar


class ListRequest(Protocol):
    """What the requests of all List methods have."""

    page_token: str


class ListResponse(Protocol):
    """What the responses of all List methods have."""

    next_page_token: str


Request = TypeVar("Request", bound=ListRequest)
Response = TypeVar("Response", bound=ListResponse)
Item = TypeVar("Item")


def each(
    method: Callable[[Request], Response], request: Request, items: Callable[[Response], Iterable[Item]]
) -> Iterator[Item]:
    """Yield what a List method has on this and all further pages; the request's page token is moved along.

    items takes the resources out of a response. Raises errors.ApiError, between pages too.
    """
    while True:
        response = method(request)
        yield from items(response)
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token
