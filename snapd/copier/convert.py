"""Rewrite a chain as the contents of one image: what an import does with a foreign file once it is vetted."""

from collections.abc import Iterator

from snapd import blockmap, units
from snapd.copier import control as controls
from snapd.copier import inflight
from snapd.qcow2.reading import chain as chains
from snapd.qcow2.writing import writer

_PIECE = 4 * units.MIB


def runs(extents: blockmap.BlockMap, piece: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the ranges that hold data, cut at multiples of `piece`; neighbours are joined."""
    data = extents.take(extents.kind != blockmap.Kind.ZERO).without_location()
    for start, length in zip(data.start.tolist(), data.length.tolist(), strict=True):
        offset, end = start, start + length
        while offset < end:
            step = min(end, units.round_down(offset, piece) + piece) - offset
            yield offset, step
            offset += step


def convert(source: chains.Chain, target: writer.Writer, threads: int, control: controls.Control) -> None:
    """Write everything that the source holds into an empty image of at least its size. Raises control.Stopped."""
    total = 0
    for start, length in blockmap.windows(source.size_bytes, source.window_span):
        extents = source.block_map(start, length)
        total += extents.total() - extents.total(blockmap.Kind.ZERO)
    control.begin("CONVERTING", total)
    buffers = inflight.Buffers(_PIECE)
    for start, length in blockmap.windows(source.size_bytes, source.window_span):
        extents = source.block_map(start, length)

        def read(run: tuple[int, int], extents: blockmap.BlockMap = extents) -> tuple[int, int, memoryview]:
            offset, count = run
            buffer = buffers.take()
            source.read_extents_into(extents, offset, buffer[:count])
            return offset, count, buffer

        for offset, count, buffer in inflight.ordered(read, runs(extents, _PIECE), threads, control):
            target.write_direct(offset, buffer[:count])
            buffers.give_back(buffer)
            control.advance(count)
    target.flush()
