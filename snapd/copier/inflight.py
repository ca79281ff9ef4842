"""A bounded number of pieces of work in flight on a few threads, and the memory that they are in."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from snapd import direct
from snapd.copier import control as controls

Piece = TypeVar("Piece")
Result = TypeVar("Result")

DEPTH_PER_THREAD = 2
"""Pieces waiting or running per thread: enough to keep it busy, and all the memory that a copy takes."""


class Buffers:
    """Memory for pieces on their way past the page cache, used again and again. Thread-safe."""

    def __init__(self, length: int) -> None:
        """Each buffer has so many bytes."""
        self._length = length
        self._spare: collections.deque[memoryview] = collections.deque()

    def take(self) -> memoryview:
        """Return a buffer, which holds anything."""
        try:
            return self._spare.pop()
        except IndexError:
            return direct.buffer(self._length)

    def give_back(self, buffer: memoryview) -> None:
        """Let the next one have a buffer that was taken."""
        self._spare.append(buffer)


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
