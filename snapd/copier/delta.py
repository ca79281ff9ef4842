"""Deltas of points, read from the allocation of layers and made ready for the catalog."""

from collections.abc import Iterator

from snapd import blockmap
from snapd.qcow2.reading import image


def windows_of(layer: image.Image) -> Iterator[tuple[int, bytes]]:
    """Yield (start, encoded delta) of each window in which a layer's file holds anything."""
    for start, length in blockmap.windows(layer.size_bytes, layer.window_span):
        extents = layer.block_map(start, length)
        if len(extents):
            yield start, blockmap.encode_delta(extents)
