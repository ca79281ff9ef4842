"""Cut a disk into the pieces in which it is sent: data up to a message's size, and holes."""

import dataclasses
from collections.abc import Iterator

from snapd import blockmap, units
from snapd.archive import manifest as manifests
from snapd.copier import convert
from snapd.qcow2.reading import chain as chains

MESSAGE = units.MIB
"""Most bytes of data in a piece."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A run of a disk; without data it reads as zeros."""

    offset: int
    length: int
    data: bytes | None


def of_chain(chain: chains.Chain, offset: int) -> Iterator[Piece]:
    """Yield a disk on primary storage from `offset` on, in order and without gaps."""
    position = offset
    for start, length in blockmap.windows(chain.size_bytes, chain.window_span):
        if start + length <= offset:
            continue
        begin = max(start, offset)
        extents = chain.block_map(begin, start + length - begin)
        for run, count in convert.runs(extents, MESSAGE):
            if run > position:
                yield Piece(position, run - position, None)
            buffer = bytearray(count)
            chain.read_extents_into(extents, run, memoryview(buffer))
            yield Piece(run, count, bytes(buffer))
            position = run + count
    if position < chain.size_bytes:
        yield Piece(position, chain.size_bytes - position, None)


def of_manifest(manifest: manifests.Manifest, offset: int) -> Iterator[Piece]:
    """Yield an archived disk from `offset` on, in order and without gaps."""
    position = offset
    first = offset // manifest.block_size
    for number, data in manifest.read_blocks(first, manifest.blocks - first):
        begin = number * manifest.block_size
        for start in range(0, len(data), MESSAGE):
            part = data[start : start + MESSAGE]
            skip = max(0, position - begin - start)
            if skip >= len(part):
                continue
            if begin + start > position:
                yield Piece(position, begin + start - position, None)
            yield Piece(begin + start + skip, len(part) - skip, part[skip:])
            position = begin + start + len(part)
    if position < manifest.size_bytes:
        yield Piece(position, manifest.size_bytes - position, None)
