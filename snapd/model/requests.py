"""What a caller asks: a change that he may ask for again, and a page of a list."""

import dataclasses
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """Who asks for a mutation, and how to know the same request when it comes again."""

    identity: str
    method: str
    parent: str
    """The environment's id, or '' for environments themselves."""
    request_id: str
    """A UUID that the caller chose, or '' if the caller gave none."""
    digest: bytes
    """Hash of the whole request but its id."""


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """Parameters of a listing."""

    environment: str
    """The environment's id; '-' for all that the caller may see; '' for environments themselves."""
    identity: str
    page_size: int
    page_token: str
    filter: str
    order_by: str


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing."""

    items: tuple[T, ...]
    next_page_token: str
