"""Who calls, and how many calls of each kind one caller may have under way.

A caller is known by the socket that it came through: gRPC for Python shows no credentials of a unix socket's peer.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from snapd import errors
from snapd.rpc import methods


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Calls under way at most, for each identity."""

    unary_calls: int = 256
    streams: int = 8
    waits: int = 1_000

    def by_kind(self) -> Mapping[methods.Kind, int]:
        """Return the limit of each kind of call."""
        return {
            methods.Kind.UNARY: self.unary_calls,
            methods.Kind.STREAM: self.streams,
            methods.Kind.WAIT: self.waits,
            methods.Kind.WATCH: self.waits,
        }


class Identity:
    """A caller. Belongs to the event loop's thread."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self._limits = limits.by_kind()
        self._under_way = dict.fromkeys(methods.Kind, 0)

    @contextmanager
    def calling(self, kind: methods.Kind) -> Iterator[None]:
        """Count a call while it is under way. Raises TooManyCalls."""
        if self._under_way[kind] >= self._limits[kind]:
            raise errors.TooManyCalls(kind=kind.value, limit=self._limits[kind])
        self._under_way[kind] += 1
        try:
            yield
        finally:
            self._under_way[kind] -= 1
