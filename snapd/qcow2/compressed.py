"""Compressed clusters: where one lies in the file, and its bytes, in bounded memory whatever the stream claims.

Source: qcow2 specification, "Compressed Clusters Descriptor".
"""

import os
import zlib

import zstandard

from snapd import errors, units
from snapd.blockmap import Int64Array
from snapd.qcow2 import layout

_DEFLATE_WINDOW = -15
"""Raw deflate. QEMU compresses with a window of 2^12 bytes; reading with the largest window takes every other too."""
_ZSTD_WINDOW_MAX = 8 * units.MIB


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
    shift = _offset_bits(cluster_bits)
    offset = entry & ((1 << shift) - 1)
    sectors = ((entry & (layout.COMPRESSED - 1)) >> shift) + 1
    data = os.pread(fd, sectors * units.SECTOR - offset % units.SECTOR, offset)
    cluster_size = 1 << cluster_bits
    try:
        if compression_type == layout.COMPRESSION_ZSTD:
            cluster = _expand_zstd(data, cluster_size)
        else:
            cluster = zlib.decompressobj(_DEFLATE_WINDOW).decompress(data, cluster_size)
    except (zlib.error, zstandard.ZstdError) as error:
        raise errors.Corrupt(what=name, problem=f"compressed cluster at offset {offset}: {error}") from error
    if len(cluster) != cluster_size:
        raise errors.Corrupt(what=name, problem=f"compressed cluster at offset {offset} ends early")
    return cluster


def _expand_zstd(data: bytes, cluster_size: int) -> bytes:
    """Return at most cluster_size bytes. Streamed, since a frame's own claim of its size is not to be believed."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    with decompressor.stream_reader(data, read_across_frames=True) as reader:
        return reader.read(cluster_size)
