"""A bounded number of pieces of work in flight on a few threads."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from snapd.copier import control as controls

Piece = TypeVar("Piece")
Result = TypeVar("Result")

DEPTH_PER_THREAD = 2
"""Pieces waiting or running per thread: enough to keep it busy, and all the memory that a copy takes."""


def ordered(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], threads: int, control: controls.Control
) -> Iterator[Result]:
    """Yield work(piece) for each piece, in order, computed ahead by some threads.

    The first error ends it, after what is under way has come to rest. Raises control.Stopped when asked to.
    """
    waiting: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads, "copier") as executor:
        try:
            for piece in pieces:
                control.check()
                waiting.append(executor.submit(work, piece))
                if len(waiting) >= threads * DEPTH_PER_THREAD:
                    yield waiting.popleft().result()
            while waiting:
                control.check()
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
