"""Compressed clusters: where one lies in the file, and its bytes, in bounded memory whatever the stream claims.

Source: qcow2 specification, "Compressed Clusters Descriptor".
"""

import os
import threading
import zlib

import numpy as np
import zstandard

from snapd import errors, units
from snapd.blockmap import Int64Array
from snapd.qcow2.format import layout

_DEFLATE_WINDOW = -15
"""Raw deflate. QEMU compresses with a window of 2^12 bytes; reading with the largest window takes every other too."""
_ZSTD_WINDOW_MAX = 8 * units.MIB
_ZSTD_UNDECLARED = -1


def offsets(entries: Int64Array, cluster_bits: int) -> Int64Array:
    """Return where in the file the clusters of these compressed L2 entries begin, in bytes."""
    return entries & ((1 << _offset_bits(cluster_bits)) - 1)


def lengths(entries: Int64Array, cluster_bits: int) -> Int64Array:
    """Return how many bytes of the file each may take: up to the end of its last sector."""
    shift = _offset_bits(cluster_bits)
    sectors = ((entries & (layout.COMPRESSED - 1)) >> shift) + 1
    return sectors * units.SECTOR - (offsets(entries, cluster_bits) & (units.SECTOR - 1))


def entries(offset: Int64Array, length: Int64Array, cluster_bits: int) -> Int64Array:
    """Return the L2 entries of compressed clusters of `length` bytes at these offsets in the file."""
    sectors = (offset + length - 1) // units.SECTOR - offset // units.SECTOR
    return layout.COMPRESSED | sectors << _offset_bits(cluster_bits) | offset


def _offset_bits(cluster_bits: int) -> int:
    return 62 - (cluster_bits - 8)


def read(fd: int, name: str, entry: int, cluster_bits: int, compression_type: int) -> bytes:
    """Return the cluster that a compressed L2 entry describes. Raises errors.Corrupt; name is for its message."""
    where = np.array([entry], np.int64)
    offset = int(offsets(where, cluster_bits)[0])
    data = os.pread(fd, int(lengths(where, cluster_bits)[0]), offset)
    return expand(data, 1 << cluster_bits, compression_type, f"{name}: compressed cluster at offset {offset}")


def expand(data: bytes | memoryview, cluster_size: int, compression_type: int, what: str) -> bytes:
    """Return the cluster of cluster_size bytes that these bytes begin with, whatever follows it.

    Takes memory for a cluster and a window of at most 8 MiB, whatever the stream claims. Raises errors.Corrupt, of
    `what`, for anything but a whole stream of exactly one cluster.
    """
    try:
        if compression_type == layout.COMPRESSION_ZSTD:
            cluster = _expand_zstd(data, cluster_size)
        else:
            cluster = _expand_deflate(data, cluster_size)
    except (zlib.error, zstandard.ZstdError, ValueError) as error:
        raise errors.Corrupt(what=what, problem=str(error)) from error
    if len(cluster) < cluster_size:
        raise errors.Corrupt(what=what, problem=f"its stream ends after {len(cluster)} of {cluster_size} bytes")
    return cluster


def _expand_deflate(data: bytes | memoryview, cluster_size: int) -> bytes:
    """Return at most cluster_size bytes. Raises ValueError for a stream that goes on behind them."""
    inflater = zlib.decompressobj(_DEFLATE_WINDOW)
    cluster = inflater.decompress(data, cluster_size)
    # The end of a stream takes some bits of its own, which are read only when more is asked for.
    if not inflater.eof and inflater.decompress(inflater.unconsumed_tail, 1):
        raise ValueError(f"its stream goes on beyond {cluster_size} bytes")
    if not inflater.eof and len(cluster) == cluster_size:
        raise ValueError("its stream has no end")
    return cluster


def _expand_zstd(data: bytes | memoryview, cluster_size: int) -> bytes:
    """Return at most cluster_size bytes. Raises zstandard.ZstdError for a frame that goes on behind them.

    The library makes room for what a frame declares, and keeps to a limit only where there is no such declaration.
    """
    declared = zstandard.frame_content_size(data)
    if declared not in (_ZSTD_UNDECLARED, cluster_size):
        raise ValueError(f"its frame declares {declared} bytes for a cluster of {cluster_size}")
    if not hasattr(_threads, "decompressor"):
        _threads.decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    decompressor: zstandard.ZstdDecompressor = _threads.decompressor
    return decompressor.decompress(data, max_output_size=cluster_size, allow_extra_data=True)


_threads = threading.local()
"""A decompressor for each thread: making one takes longer than a cluster."""
