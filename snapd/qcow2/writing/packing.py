"""Compressing clusters for an image: streams that QEMU reads. Any thread may do it; knows nothing of files.

Source: qcow2 specification, "Compressed Clusters Descriptor": raw deflate with a window of 2^12 bytes, or a zstd frame.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import zstandard

from snapd.qcow2.format import layout

_DEFLATE_WINDOW = -12
_DEFLATE_LEVEL = zlib.Z_DEFAULT_COMPRESSION
_DEFLATE_MEMORY = 9
_ZSTD_LEVEL = 3

ZERO = b""
"""In place of a stream: the cluster holds zeros only."""

Packed = Sequence[bytes | None]
"""For each cluster its stream, or ZERO, or None if it doesn't get shorter."""


def pack(data: bytes | bytearray | memoryview, cluster_size: int, compression_type: int) -> Packed:
    """Return the clusters of data compressed; what the last one lacks is taken to be zeros."""
    view = memoryview(data).cast("B")
    compress = _zstd() if compression_type == layout.COMPRESSION_ZSTD else _deflate
    packed: list[bytes | None] = []
    whole = len(view) // cluster_size
    words = np.frombuffer(view[: whole * cluster_size], np.uint64).reshape(whole, cluster_size // 8)
    in_use: list[bool] = (words != 0).any(axis=1).tolist()
    for number, is_used in enumerate(in_use):
        cluster = view[number * cluster_size : (number + 1) * cluster_size]
        packed.append(_shorter(compress, cluster) if is_used else ZERO)
    if rest := bytes(view[whole * cluster_size :]):
        packed.append(_shorter(compress, rest.ljust(cluster_size, b"\0")) if rest.strip(b"\0") else ZERO)
    return packed


def _shorter(compress: Callable[[bytes | memoryview], bytes], cluster: bytes | memoryview) -> bytes | None:
    stream = compress(cluster)
    return stream if len(stream) < len(cluster) else None


def _deflate(cluster: bytes | memoryview) -> bytes:
    compressor = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, _DEFLATE_WINDOW, _DEFLATE_MEMORY)
    return compressor.compress(cluster) + compressor.flush()


def _zstd() -> Callable[[bytes | memoryview], bytes]:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress
