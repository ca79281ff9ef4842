"""New, empty images, and the name of the backing file in a header: both cheap, since captures wait for them."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from snapd import errors, fsops, units
from snapd.qcow2.format import counters, header, layout, locks

_BACKING_FORMAT = b"qcow2"
_COMPRESSIONS = {"deflate": layout.COMPRESSION_DEFLATE, "zstd": layout.COMPRESSION_ZSTD}
_FEATURE_NAMES_FROM = 4 * units.KIB
"""Smaller headers keep their room for the backing name instead of the names of features."""


def create(
    path: pathlib.Path,
    *,
    size_bytes: int,
    cluster_size: int = 64 * units.KIB,
    version: int = 3,
    refcount_bits: int = 16,
    compression: str = "deflate",
    extended_l2: bool = False,
    backing_name: str | None = None,
    backing_format: str = _BACKING_FORMAT.decode(),
    extensions: Sequence[tuple[int, bytes]] = (),
    mode: int | None = None,
) -> None:
    """Make an empty image that must not exist yet, fsynced; its name is the caller's to publish.

    mode is the file's, whatever the umask is; without one nobody but the owner may do anything with it.

    version is 2 (QEMU's compat=0.10) or 3, compression "deflate" or "zstd". The cost doesn't depend on the size: the L1
    table is a hole. Raises errors.InvalidField for what the format can't hold or that version doesn't have,
    errors.ImageRefused for a header that doesn't fit, errors.StorageFull, errors.StorageFailed.
    """
    bits = _require_power("cluster_size", cluster_size, layout.CLUSTER_BITS_MIN, layout.CLUSTER_BITS_MAX)
    order = _require_power("refcount_bits", refcount_bits, 0, layout.REFCOUNT_ORDER_MAX)
    incompatible = _incompatible(version, bits, order, compression, extended_l2=extended_l2)
    entry_size = layout.EXTENDED_ENTRY_SIZE if extended_l2 else layout.ENTRY_SIZE
    l1_size = max(1, header.l1_entries_for(size_bytes, bits, entry_size))
    if size_bytes < 0 or size_bytes % units.SECTOR or l1_size * layout.ENTRY_SIZE > layout.L1_BYTES_MAX:
        raise errors.InvalidField(field="size_bytes", problem=f"{size_bytes} bytes are no disk that qcow2 can hold")
    l1_clusters = units.divide_up(l1_size * layout.ENTRY_SIZE, cluster_size)
    table_clusters, blocks = _refcount_layout(1 + l1_clusters, cluster_size, counters.per_block(order, bits))
    used = 1 + table_clusters + blocks + l1_clusters
    if backing_name is not None:
        _require_names(backing_name, backing_format)
        extensions = ((layout.EXTENSION_BACKING_FORMAT, backing_format.encode()), *extensions)
    if version >= 3 and cluster_size >= _FEATURE_NAMES_FROM:
        extensions = (*extensions, (layout.EXTENSION_FEATURE_NAMES, layout.FEATURE_NAMES))
    head = header.Header(
        version=version,
        cluster_bits=bits,
        size_bytes=size_bytes,
        l1_size=l1_size,
        l1_offset=(used - l1_clusters) * cluster_size,
        refcount_table_offset=cluster_size,
        refcount_table_clusters=table_clusters,
        incompatible=incompatible,
        refcount_order=order,
        header_length=layout.V2_LENGTH if version == 2 else layout.CREATED_HEADER_LENGTH,
        compression_type=_COMPRESSIONS[compression],
        backing_name=backing_name,
        extensions=tuple(extensions),
    ).serialise()
    table = (1 + table_clusters + np.arange(blocks, dtype=np.int64)) * cluster_size
    # The blocks lie in a row, so that their first `used` counters do too.
    refcounts = np.zeros(units.round_up(used, 8), counters.dtype(order))
    refcounts[:used] = 1
    with fsops.translated(path):
        fd = fsops.create(path)
        try:
            fsops.pwrite(fd, head, 0)
            fsops.pwrite(fd, table.astype(">i8").tobytes(), cluster_size)
            fsops.pwrite(fd, counters.pack(refcounts, order), (1 + table_clusters) * cluster_size)
            fsops.truncate(fd, used * cluster_size)
            if mode is not None:
                fsops.set_mode(path, mode)
            fsops.fsync(fd)
        finally:
            os.close(fd)


def _require_power(field: str, value: int, low: int, high: int) -> int:
    """Return the exponent of a power of 2 from 2**low to 2**high."""
    exponent = value.bit_length() - 1
    if value != 1 << max(exponent, 0) or not low <= exponent <= high:
        raise errors.InvalidField(field=field, problem=f"{value} is not a power of 2 from {1 << low} to {1 << high}")
    return exponent


def _require_names(backing_name: str, backing_format: str) -> None:
    """Raise errors.InvalidField for names that no reader takes."""
    if not 1 <= len(backing_name.encode()) <= layout.BACKING_NAME_MAX or not backing_name.isprintable():
        problem = f"it has 1 to {layout.BACKING_NAME_MAX} bytes, without control characters"
        raise errors.InvalidField(field="backing_name", problem=problem)
    name = backing_format.encode()
    if not 1 <= len(name) <= layout.BACKING_FORMAT_MAX or not set(name) <= layout.BACKING_FORMAT_BYTES:
        raise errors.InvalidField(field="backing_format", problem=f"{backing_format!r} is no name of a format")


def _incompatible(version: int, bits: int, order: int, compression: str, *, extended_l2: bool) -> int:
    """Return the incompatible features of an image with these options. Raises errors.InvalidField."""
    if version not in (2, 3):
        raise errors.InvalidField(field="version", problem=f"{version} is neither 2 nor 3")
    if compression not in _COMPRESSIONS:
        raise errors.InvalidField(field="compression", problem=f"{compression!r} is neither 'deflate' nor 'zstd'")
    if extended_l2 and bits < layout.EXTENDED_CLUSTER_BITS_MIN:
        least = 1 << layout.EXTENDED_CLUSTER_BITS_MIN
        raise errors.InvalidField(field="extended_l2", problem=f"it needs clusters of {least} bytes or more")
    features = layout.INCOMPATIBLE_EXTENDED_L2 if extended_l2 else 0
    if _COMPRESSIONS[compression] != layout.COMPRESSION_DEFLATE:
        features |= layout.INCOMPATIBLE_COMPRESSION
    if version == 2 and (features or order != layout.REFCOUNT_ORDER_DEFAULT):
        raise errors.InvalidField(
            field="version", problem="version 2 has refcounts of 16 bits, deflate and no extended L2 entries"
        )
    return features


def _refcount_layout(others: int, cluster_size: int, per_block: int) -> tuple[int, int]:
    """Return how many clusters of refcount table and of blocks count themselves and `others` further clusters."""
    table_clusters = blocks = 1
    while True:
        used = others + table_clusters + blocks
        needed_blocks = units.divide_up(used, per_block)
        needed_table = units.divide_up(needed_blocks, cluster_size // layout.ENTRY_SIZE)
        if (needed_table, needed_blocks) == (table_clusters, blocks):
            return table_clusters, blocks
        table_clusters, blocks = max(table_clusters, needed_table), max(blocks, needed_blocks)


def set_backing_name(path: pathlib.Path, backing_name: str | None) -> None:
    """Write another backing name into an image's header, or none. Killed anywhere, the old one or the new one is there.

    The new string goes where the header uses nothing; then one sector's write makes it the name. Raises
    errors.ImageRefused if there is no room for it, errors.ImageBusy if somebody has the image open, errors.StorageFull,
    errors.StorageFailed.
    """
    with fsops.translated(path):
        fd = fsops.open_for_writing(path)
        try:
            locks.exclusive(fd, path.name)
            parsed = header.read(fd, os.fstat(fd).st_size)
            if backing_name == parsed.backing_name:
                # By a process, perhaps, that died before it was durable.
                fsops.fdatasync(fd)
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
            locks.close(fd)


def replace_extension(path: pathlib.Path, magic: int, data: bytes) -> bool:
    """Write other data into an extension of an image's header, filled up with blanks; False if it has no such room.

    The header is whole at every moment. Killed within this, the data may be torn, which whoever reads them has to
    notice. Raises errors.ImageRefused, errors.ImageBusy if somebody has the image open, errors.StorageFull,
    errors.StorageFailed.
    """
    with fsops.translated(path):
        fd = fsops.open_for_writing(path)
        try:
            locks.exclusive(fd, path.name)
            parsed = header.read(fd, os.fstat(fd).st_size)
            at = parsed.header_length
            for kind, there in parsed.extensions:
                at += layout.EXTENSION.size
                if kind == magic and len(data) <= len(there):
                    fsops.pwrite(fd, data.ljust(len(there), b" "), at)
                    fsops.fdatasync(fd)
                    return True
                at += units.round_up(len(there), 8)
            return False
        finally:
            locks.close(fd)


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
