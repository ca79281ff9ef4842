"""Flattening: what a whole chain shows, in one image that needs no other: a new one, compressed or not, or in place.

Knows nothing of volumes. Compressing is done by threads; the image is written by one.
"""

import collections
import concurrent.futures
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from snapd import blockmap, units
from snapd.blockmap import BlockMap, Kind
from snapd.qcow2.checking import check
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, packing, transfer, writer

_PIECE = units.MIB
"""Bytes that a thread reads and compresses at a time, or a cluster if that is more."""
_WAITING = 2
"""Threads beyond the number of processors: each reads too, and waits for the disk then."""

Piece = tuple[int, bytearray, packing.Packed]
"""Guest offset, bytes, and the same compressed."""


def flatten(source: chain.Chain, target: writer.Writer, *, compressed: bool = False, threads: int | None = None) -> int:
    """Write what a chain shows into an empty image without a backing file, of at least its size; flush.

    Compressed means: as the image's compression type has it, by so many threads.
    Returns the bytes of data that were read. Raises what `writer.Writer.write` and `chain.Chain.read_into` raise.
    """
    done = 0
    for start, length in blockmap.windows(source.size_bytes):
        extents = _data(source.block_map(start, length))
        if compressed:
            done += _compress(extents, source, target, threads or (os.cpu_count() or 1) + _WAITING)
        else:
            done += transfer.transfer(extents, source, target)
    target.flush()
    return done


def pull(path: pathlib.Path, beneath: chain.Chain) -> int:
    """Have an image hold what it shows of the chain below it, and then name no backing file any more; flushed.

    Killed anywhere, its contents are what they were; run it again. Returns the bytes of data that were copied. Raises
    what `flatten` raises, errors.ImageBusy, errors.Corrupt before anything is written if the image isn't sound.
    """
    copied = 0
    # The image is mapped while it is written, but each window before anything of that window is.
    with writer.Writer.open(path, beneath) as target, image.Image.open(path, locked=False) as top:
        check.require_sound(top)
        for start, length in blockmap.windows(min(beneath.size_bytes, top.size_bytes)):
            missing = blockmap.difference(beneath.block_map(start, length), top.block_map(start, length))
            copied += transfer.transfer(_data(missing), beneath, target)
    create.set_backing_name(path, None)
    return copied


def _data(extents: BlockMap) -> BlockMap:
    """Return the extents that don't read as zeros anyway where nothing lies below."""
    return extents.take(extents.kind != Kind.ZERO)


def _compress(extents: BlockMap, source: chain.Chain, target: writer.Writer, threads: int) -> int:
    size, kind = target.cluster_size, target.header.compression_type

    def prepare(start: int, length: int) -> Piece:
        # The target may be larger than the source; what it has beyond reads as zeros.
        data = bytearray(length)
        visible = min(length, source.size_bytes - start)
        source.read_extents_into(extents, start, memoryview(data)[:visible])
        return start, data, packing.pack(data, size, kind)

    done = 0
    waiting: collections.deque[concurrent.futures.Future[Piece]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            for start, length in _pieces(extents, size, target.size_bytes):
                waiting.append(pool.submit(prepare, start, length))
                if len(waiting) > 2 * threads:
                    done += _put(waiting.popleft(), target)
            while waiting:
                done += _put(waiting.popleft(), target)
        finally:
            pool.shutdown(cancel_futures=True)
    return done


def _put(piece: concurrent.futures.Future[Piece], target: writer.Writer) -> int:
    start, data, packed = piece.result()
    target.write_packed(start, data, packed)
    return len(data)


def _pieces(extents: BlockMap, cluster_size: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) of runs of the clusters that extents touch, none longer than a piece."""
    numbers = blockmap.touched_blocks(extents, cluster_size)
    heads = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
    step = max(_PIECE, cluster_size)
    for first, count in zip(numbers[heads].tolist(), np.diff(heads, append=len(numbers)).tolist(), strict=True):
        begin, end = first * cluster_size, min((first + count) * cluster_size, size_bytes)
        for start in range(begin, end, step):
            yield start, min(step, end - start)
