"""New, empty images, and the name of the backing file in a header: both cheap, since captures wait for them."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from snapd import errors, fsops, units
from snapd.qcow2 import header, layout

_BACKING_FORMAT = b"qcow2"


def create(
    path: pathlib.Path,
    *,
    size_bytes: int,
    cluster_size: int = 64 * units.KIB,
    backing_name: str | None = None,
    extensions: Sequence[tuple[int, bytes]] = (),
) -> None:
    """Make an empty version 3 image that must not exist yet, fsynced; its name is the caller's to publish.

    The cost doesn't depend on the size: the L1 table is a hole. Raises errors.InvalidField for sizes that the format
    can't hold, errors.ImageRefused for a header that doesn't fit, errors.StorageFull, errors.StorageFailed.
    """
    bits = cluster_size.bit_length() - 1
    if cluster_size != 1 << bits or not layout.CLUSTER_BITS_MIN <= bits <= layout.CLUSTER_BITS_MAX:
        raise errors.InvalidField(field="cluster_size", problem=f"{cluster_size} is not a power of 2 from 512 to 2 MiB")
    l1_size = max(1, header.l1_entries_for(size_bytes, bits))
    if size_bytes < 0 or size_bytes % units.SECTOR or l1_size * layout.ENTRY_SIZE > layout.L1_BYTES_MAX:
        raise errors.InvalidField(field="size_bytes", problem=f"{size_bytes} bytes are no disk that qcow2 can hold")
    l1_clusters = units.divide_up(l1_size * layout.ENTRY_SIZE, cluster_size)
    table_clusters, blocks = _refcount_layout(1 + l1_clusters, cluster_size)
    used = 1 + table_clusters + blocks + l1_clusters
    if backing_name is not None:
        extensions = ((layout.EXTENSION_BACKING_FORMAT, _BACKING_FORMAT), *extensions)
    head = header.Header(
        version=3,
        cluster_bits=bits,
        size_bytes=size_bytes,
        l1_size=l1_size,
        l1_offset=(used - l1_clusters) * cluster_size,
        refcount_table_offset=cluster_size,
        refcount_table_clusters=table_clusters,
        backing_name=backing_name,
        extensions=tuple(extensions),
    ).serialise()
    table = (1 + table_clusters + np.arange(blocks, dtype=np.int64)) * cluster_size
    with fsops.translated(path):
        fd = fsops.create(path)
        try:
            fsops.pwrite(fd, head, 0)
            fsops.pwrite(fd, table.astype(">i8").tobytes(), cluster_size)
            # The blocks lie in a row, so that their first `used` counters do too.
            fsops.pwrite(fd, np.ones(used, ">u2").tobytes(), (1 + table_clusters) * cluster_size)
            fsops.truncate(fd, used * cluster_size)
            fsops.fsync(fd)
        finally:
            os.close(fd)


def _refcount_layout(others: int, cluster_size: int) -> tuple[int, int]:
    """Return how many clusters of refcount table and of blocks count themselves and `others` further clusters."""
    table_clusters = blocks = 1
    while True:
        used = others + table_clusters + blocks
        needed_blocks = units.divide_up(used, cluster_size // 2)
        needed_table = units.divide_up(needed_blocks, cluster_size // layout.ENTRY_SIZE)
        if (needed_table, needed_blocks) == (table_clusters, blocks):
            return table_clusters, blocks
        table_clusters, blocks = max(table_clusters, needed_table), max(blocks, needed_blocks)


def set_backing_name(path: pathlib.Path, backing_name: str | None) -> None:
    """Write another backing name into an image's header, or none. Killed anywhere, the old one or the new one is there.

    The new string goes where the header uses nothing; then one sector's write makes it the name. Raises
    errors.ImageRefused if there is no room for it, errors.StorageFull, errors.StorageFailed.
    """
    with fsops.translated(path):
        fd = fsops.open_for_writing(path)
        try:
            parsed = header.read(fd, os.fstat(fd).st_size)
            if backing_name == parsed.backing_name:
                return
            fields = layout.BACKING_FIELDS.pack(0, 0)
            if backing_name is not None:
                parsed = _with_backing_format(fd, parsed)
                name = backing_name.encode()
                name_at = _room_for(parsed, len(name))
                fsops.pwrite(fd, name, name_at)
                fsops.fdatasync(fd)
                fields = layout.BACKING_FIELDS.pack(name_at, len(name))
            fsops.pwrite(fd, fields, layout.BACKING_FIELDS_AT)
            fsops.fdatasync(fd)
        finally:
            os.close(fd)


def _with_backing_format(fd: int, parsed: header.Header) -> header.Header:
    """Add the backing format to a header that lacks it, and return the header that is then in the file."""
    if parsed.backing_format == _BACKING_FORMAT.decode():
        return parsed
    if parsed.backing_format is not None or parsed.backing_name is not None:
        raise errors.ImageRefused(problem="its backing file is not stated to be qcow2")
    # The data go behind the end marker first; the marker turns into the extension's type and length in one sector.
    at = parsed.extensions_end() - layout.EXTENSION.size
    tail = _BACKING_FORMAT.ljust(8, b"\0") + layout.EXTENSION.pack(layout.EXTENSION_END, 0)
    if at + layout.EXTENSION.size + len(tail) > parsed.cluster_size:
        raise errors.ImageRefused(problem="its header has no room for a backing format")
    fsops.pwrite(fd, tail, at + layout.EXTENSION.size)
    fsops.fdatasync(fd)
    fsops.pwrite(fd, layout.EXTENSION.pack(layout.EXTENSION_BACKING_FORMAT, len(_BACKING_FORMAT)), at)
    fsops.fdatasync(fd)
    return header.read(fd, os.fstat(fd).st_size)


def _room_for(parsed: header.Header, length: int) -> int:
    """Return an offset in the header's cluster at which `length` bytes overwrite nothing that is in use."""
    if not 1 <= length <= layout.BACKING_NAME_MAX:
        raise errors.ImageRefused(problem=f"a backing name of {length} bytes")
    at = parsed.extensions_end()
    if parsed.backing_name is not None and at + length > parsed.backing_offset:
        at = max(at, parsed.backing_offset + len(parsed.backing_name.encode()))
    if at + length > parsed.cluster_size:
        raise errors.ImageRefused(problem="its header has no room for the backing name")
    return at
