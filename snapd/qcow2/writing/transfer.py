"""Extents of a chain into an image that is being written: inside the kernel where they lie as they are, else by memory.

What is whole clusters of the target and plain bytes in a file is cloned or copied; compressed clusters, pieces of
clusters and what a file's end cuts short are read and written. Folds and flattening are made of this.
"""

import numpy as np
import numpy.typing as npt

from snapd import blockmap, units
from snapd.blockmap import BlockMap, Kind
from snapd.qcow2.reading import chain
from snapd.qcow2.writing import writer

_BUFFER = units.MIB
"""Bytes that pass through memory at a time where the kernel can't copy them."""


def transfer(extents: BlockMap, source: chain.Chain, target: writer.Writer) -> int:
    """Write extents of the source, their `layer` naming its images, into target; return how many bytes of data.

    Raises what `writer.Writer.write` and `chain.Chain.read_into` raise.
    """
    is_zero = extents.kind == Kind.ZERO
    target.zero_extents(extents.start[is_zero], extents.length[is_zero])
    data = extents.take(~is_zero)
    whole = _whole_clusters(data, source, target)
    for number, each in enumerate(source.images):
        part = whole.take(whole.layer == number)
        target.copy_extents(each.fileno(), part.start, part.length, part.host)
    for start, length in _ranges(blockmap.difference(data, whole)):
        for offset in range(start, start + length, _BUFFER):
            buffer = bytearray(min(_BUFFER, start + length - offset))
            source.read_extents_into(data, offset, memoryview(buffer))
            target.write(offset, buffer)
    return data.total()


def _ranges(extents: BlockMap) -> list[tuple[int, int]]:
    """Return (start, length) of the guest ranges that extents cover, neighbours joined."""
    joined = extents.without_location()
    return list(zip(joined.start.tolist(), joined.length.tolist(), strict=True))


def _whole_clusters(data: BlockMap, source: chain.Chain, target: writer.Writer) -> BlockMap:
    """Return the parts of extents that are whole clusters of target and lie in a file as they are."""
    size = target.cluster_size
    file_size = np.array([each.file_size for each in source.images], np.int64)
    first = (data.start + size - 1) // size * size
    last = np.where(data.end == target.size_bytes, data.end, data.end // size * size)
    # Not what the file's end continues by zeros.
    plain = (data.kind == Kind.DATA) & (data.host <= file_size[data.layer] - data.length)
    kept: npt.NDArray[np.bool_] = plain & (first < last)
    part = data.take(kept)
    first, last = first[kept], last[kept]
    return BlockMap(first, last - first, part.kind, part.host + (first - part.start), part.layer)
