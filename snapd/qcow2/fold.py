"""Folds: a layer goes away, and a neighbour's file receives what of it still shows.

Both ways leave the chain's contents as they were at every moment, so a fold that was killed is simply run again. The
headers' backing names are not touched; switching them is the pool's step after the fold.
"""

import pathlib

from snapd import blockmap, units
from snapd.blockmap import BlockMap, Kind
from snapd.qcow2 import chain, image, writer

_BUFFER = units.MIB
"""Bytes that pass through memory at a time where the kernel can't copy them."""


def fold_up(lower: image.Image, child_path: pathlib.Path, beneath: chain.Chain | None) -> int:
    """Have the child hold what it shows of `lower`, so that it can stand on `beneath` instead; flushed.

    Returns the bytes of data that were copied. Raises what `writer.Writer.write` and `image.Image.block_map` raise.
    """
    below = chain.Chain([lower, *(beneath.images if beneath else ())])
    copied = 0
    # The child is mapped while it is written, but each window before anything of that window is.
    with writer.Writer.open(child_path, below) as target, image.Image.open(child_path, locked=False) as child:
        visible = min(lower.size_bytes, child.size_bytes)
        for start, length in blockmap.windows(visible):
            missing = blockmap.difference(lower.block_map(start, length), child.block_map(start, length))
            copied += _transfer(missing, lower, target)
        if beneath is not None:
            # Between the end of `lower` and the child's nothing shows now; `beneath` must not begin to.
            target.hide_backing(visible, max(0, min(beneath.size_bytes, child.size_bytes) - visible))
    return copied


def fold_down(child: image.Image, lower_path: pathlib.Path, beneath: chain.Chain | None) -> int:
    """Have the lower file take the child's data and size, so that it can stand in the child's place; flushed.

    `beneath` is what lies below the lower file. Returns the bytes of data that were copied. Raises what
    `writer.Writer.write`, `writer.Writer.resize` and `image.Image.block_map` raise.
    """
    copied = 0
    with writer.Writer.open(lower_path, beneath) as target:
        # Growing writes zeros over what `beneath` holds there; shrinking drops what the child doesn't show.
        target.resize(child.size_bytes)
        for start, length in blockmap.windows(child.size_bytes):
            copied += _transfer(child.block_map(start, length), child, target)
    return copied


def _transfer(extents: BlockMap, source: image.Image, target: writer.Writer) -> int:
    """Write extents of source into target and return how many bytes of data that were."""
    copied = 0
    view = chain.Chain([source])
    for start, length, kind, host in zip(
        extents.start.tolist(), extents.length.tolist(), extents.kind.tolist(), extents.host.tolist(), strict=True
    ):
        if kind == Kind.ZERO:
            target.write_zeroes(start, length)
            continue
        copied += length
        first, last = _whole_clusters(start, length, target)
        if kind == Kind.COMPRESSED or host > source.file_size - length:
            # Not bytes that lie in the file as they are: packed, or continued by zeros beyond the file's end.
            first = last = start + length
        _write_through(view, start, first, target)
        if first < last:
            target.copy_from(source.fileno(), host + first - start, first, last - first)
        _write_through(view, last, start + length, target)
    return copied


def _whole_clusters(start: int, length: int, target: writer.Writer) -> tuple[int, int]:
    """Return the part of an extent that is whole clusters of target, or an empty part at the extent's end."""
    end = start + length
    first = units.round_up(start, target.cluster_size)
    last = end if end == target.size_bytes else units.round_down(end, target.cluster_size)
    return (first, last) if first < last else (end, end)


def _write_through(view: chain.Chain, start: int, end: int, target: writer.Writer) -> None:
    """Copy a range through memory."""
    for offset in range(start, end, _BUFFER):
        buffer = bytearray(min(_BUFFER, end - offset))
        view.read_into(offset, memoryview(buffer))
        target.write(offset, buffer)
