"""Carry a chain's contents into the archive: what changed since a base, or everything, block by block."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from snapd import blockmap, direct, units
from snapd import pace as paces
from snapd.copier import control as controls
from snapd.copier import inflight
from snapd.qcow2.reading import chain as chains

_BATCH = 4 * units.MIB
"""Bytes that one piece of work reads at most: long enough for the disk, short enough for memory. A pace cuts it."""

Delta = Callable[[int, int], blockmap.BlockMap]
"""(start, length) of a window → what differs there from the base, with or without places."""


class Recording(Protocol):
    """Where blocks go (see archive.repository)."""

    def put(self, number: int, data: memoryview) -> None:
        """Record a block's bytes."""
        ...

    def put_zeroes(self, numbers: blockmap.Int64Array) -> None:
        """Record that blocks read as zeros."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    """A run of neighbouring blocks to read and put."""

    extents: blockmap.BlockMap
    first: int
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """What one window needs: blocks with data, as runs, and blocks that became zeros."""

    extents: blockmap.BlockMap
    first: blockmap.Int64Array
    count: blockmap.Int64Array
    zeroes: blockmap.Int64Array


def _runs(numbers: blockmap.Int64Array, most: int) -> tuple[blockmap.Int64Array, blockmap.Int64Array]:
    """Return (first, count) of the runs of consecutive numbers, none longer than most."""
    if len(numbers) == 0:
        return numbers, numbers
    # A run also ends where a multiple of `most` begins, so pieces of neighbouring runs line up.
    breaks = (np.diff(numbers) != 1) | (numbers[1:] % most == 0)
    starts = np.flatnonzero(np.concatenate(([True], breaks)))
    ends = np.concatenate((starts[1:], [len(numbers)]))
    return numbers[starts], (ends - starts).astype(np.int64)


def _plan(chain: chains.Chain, delta: Delta | None, start: int, length: int, block_size: int, most: int) -> _Plan:
    """Return what a window needs, in runs of `most` blocks at most."""
    extents = chain.block_map(start, length)
    data = blockmap.touched_blocks(extents.take(extents.kind != blockmap.Kind.ZERO), block_size)
    zeroes = data[:0]
    if delta is not None:
        touched = blockmap.touched_blocks(blockmap.clip(delta(start, length), start, length), block_size)
        zeroes = np.setdiff1d(touched, data, assume_unique=True)
        data = np.intersect1d(touched, data, assume_unique=True)
    first, count = _runs(data, most)
    return _Plan(extents, first, count, zeroes)


def record(
    chain: chains.Chain,
    delta: Delta | None,
    recording: Recording,
    block_size: int,
    threads: int,
    control: controls.Control,
    pace: paces.Pace | None = None,
) -> None:
    """Put every block of the chain that has data, or with a delta every block that it touches.

    Without a delta the recording must have no base, and what isn't put reads as zeros. Blocks are read at a pace, if
    there is one; what is stored of them, and read back to be proven, is never more. Raises control.Stopped.
    """
    batch = min(_BATCH, _BATCH if pace is None else pace.piece_bytes or _BATCH)
    most = max(1, batch // block_size)
    windows = list(blockmap.windows(chain.size_bytes, chain.window_span))
    total = 0
    for start, length in windows:
        control.check()
        total += int(_plan(chain, delta, start, length, block_size, most).count.sum()) * block_size
    control.begin("ARCHIVING", total)
    buffers = threading.local()

    def work(piece: _Piece) -> None:
        if not hasattr(buffers, "view"):
            buffers.view = direct.buffer(max(_BATCH, block_size))
        offset = piece.first * block_size
        view: memoryview = buffers.view[: min(piece.count * block_size, chain.size_bytes - offset)]
        chain.read_extents_into(piece.extents, offset, view)
        for index in range(piece.count):
            recording.put(piece.first + index, view[index * block_size : (index + 1) * block_size])
        # Told here, since a pace keeps back the next pieces and with them the turn of those that are done.
        control.advance(len(view))

    def pieces() -> Iterator[_Piece]:
        for start, length in windows:
            plan = _plan(chain, delta, start, length, block_size, most)
            if len(plan.zeroes):
                recording.put_zeroes(plan.zeroes)
            for first, count in zip(plan.first.tolist(), plan.count.tolist(), strict=True):
                if pace is not None:
                    # Here and not in `work`: nothing is half done here when the wait is cut short.
                    pace.take(count * block_size, control.wait)
                yield _Piece(plan.extents, first, count)

    for _ in inflight.ordered(work, pieces(), threads, control):
        pass
