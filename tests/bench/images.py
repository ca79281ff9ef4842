"""Large images for the engine's benchmarks, whose metadata is written in bulk; QEMU finds them sound.

The clusters of a terabyte are holes of the file: what is measured reads tables, and never them.
"""

import os
import pathlib

import numpy as np
import numpy.typing as npt

from snapd import units
from snapd.blockmap import Int64Array
from snapd.qcow2.format import header, layout

CLUSTER = 64 * units.KIB
_PER_TABLE = CLUSTER // layout.ENTRY_SIZE
_PER_BLOCK = CLUSTER // 2


def write_metadata(fd: int, size_bytes: int, hosts: Int64Array, *, backing_name: str | None = None) -> int:
    """Make an open, empty file an image whose guest cluster i is the data cluster hosts[i], or absent if that is -1.

    Data clusters are numbered from 0 without gaps. Returns the offset of the first, where the metadata ends; the file
    is as long as the last one needs.
    """
    tables = units.divide_up(len(hosts), _PER_TABLE)
    l1_clusters = units.divide_up(tables, _PER_TABLE)
    data_clusters = int(hosts.max(initial=-1)) + 1
    blocks = 1
    while True:
        table_clusters = units.divide_up(blocks, _PER_TABLE)
        first_data = 1 + table_clusters + blocks + l1_clusters + tables
        needed = units.divide_up(first_data + data_clusters, _PER_BLOCK)
        if needed <= blocks:
            break
        blocks = needed
    extensions = () if backing_name is None else ((layout.EXTENSION_BACKING_FORMAT, b"qcow2"),)
    l1_at = 1 + table_clusters + blocks
    head = header.Header(
        version=3,
        cluster_bits=CLUSTER.bit_length() - 1,
        size_bytes=size_bytes,
        l1_size=tables,
        l1_offset=l1_at * CLUSTER,
        refcount_table_offset=CLUSTER,
        refcount_table_clusters=table_clusters,
        backing_name=backing_name,
        extensions=extensions,
    ).serialise()
    end = first_data + data_clusters
    os.ftruncate(fd, end * CLUSTER)
    os.pwrite(fd, head, 0)
    _pwrite(fd, _in_a_row(1 + table_clusters, blocks), CLUSTER)
    _pwrite(fd, np.ones(end, np.uint16), (1 + table_clusters) * CLUSTER)
    _pwrite(fd, _in_a_row(l1_at + l1_clusters, tables) | layout.COPIED, l1_at * CLUSTER)
    entries = np.where(hosts < 0, np.int64(0), ((hosts + first_data) * CLUSTER) | layout.COPIED)
    _pwrite(fd, entries, (l1_at + l1_clusters) * CLUSTER)
    return first_data * CLUSTER


def make_mapped(path: pathlib.Path, size_bytes: int, extent_bytes: int) -> int:
    """Make an image with every cluster mapped, in extents of that many bytes; return how many there are.

    No extent lies behind its neighbour in the file, but in the same 2 GiB of it: were they all over the file, QEMU's
    check would read a block of refcounts anew for each of them, and take 60 times as long.
    """
    clusters = size_bytes // CLUSTER
    run = extent_bytes // CLUSTER
    count = clusters // run
    near = min(count, _PER_BLOCK // run or 1)
    # An odd step goes through all places of a power of two once, and never from one to the next.
    number = np.arange(count, dtype=np.int64)
    place = number // near * near + number * 2531 % near
    hosts = (place[:, None] * run + np.arange(run)).reshape(-1)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_metadata(fd, size_bytes, hosts)
        os.fsync(fd)
    finally:
        os.close(fd)
    return count


def _in_a_row(first: int, count: int) -> Int64Array:
    """Return the table entries of so many clusters in a row."""
    return np.arange(first, first + count, dtype=np.int64) * CLUSTER


def _pwrite(fd: int, table: npt.NDArray[np.int64] | npt.NDArray[np.uint16], offset: int) -> None:
    """Write a table in the file's byte order."""
    data = memoryview(table.astype(table.dtype.newbyteorder(">")).tobytes())
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
