"""The options that all `list` commands share, and the walk over the pages behind them."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import click

from snapd.client import pages

Function = TypeVar("Function", bound=Callable[..., Any])

_LARGEST_PAGE = 1000


class FilteredRequest(pages.ListRequest, Protocol):
    """What the requests of our own List methods have."""

    page_size: int
    filter: str
    order_by: str


Request = TypeVar("Request", bound=FilteredRequest)
Response = TypeVar("Response", bound=pages.ListResponse)
Item = TypeVar("Item")


def options(function: Function) -> Function:
    """Add --filter, --order-by and --limit to a command."""
    decorators = (
        click.option("--filter", "filter_", default="", help="Such as 'state = READY AND labels.team = \"blue\"'."),
        click.option("--order-by", default="", help="Such as 'create_time desc'; by name if left out."),
        click.option("--limit", type=click.IntRange(min=1), help="At most so many."),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def each(
    method: Callable[[Request], Response],
    request: Request,
    items: Callable[[Response], Iterable[Item]],
    *,
    filter_: str,
    order_by: str,
    limit: int | None,
) -> Iterator[Item]:
    """Yield what a List method has under the common options."""
    request.filter = filter_
    request.order_by = order_by
    request.page_size = min(limit or _LARGEST_PAGE, _LARGEST_PAGE)
    return itertools.islice(pages.each(method, request, items), limit)
