"""Numbers of the qcow2 format: magics, flags, masks and the limits that images are held to. Does nothing itself.

Source: QEMU's docs/interop/qcow2.txt, whose section names the comments quote; the limits are QEMU's own.

Table entries are handled as int64 (numpy's uint64 turns into float64 when it meets a signed number), so the
COPIED flag, bit 63, is the sign.
"""

import struct
from typing import Final

from snapd import units

MAGIC: Final = 0x514649FB
"""'QFI' and 0xfb, the first four bytes of an image."""

# --- "Header" ---------------------------------------------------------------------------------------------------------

HEADER_V2: Final = struct.Struct(">IIQIIQIIQQIIQ")
"""magic, version, backing offset, backing size, cluster bits, size, crypt method, L1 size, L1 offset,
refcount table offset, refcount table clusters, snapshot count, snapshot table offset"""
HEADER_V3: Final = struct.Struct(">QQQII")
"""incompatible, compatible and autoclear features, refcount order, header length"""
V2_LENGTH: Final = 72
V3_LENGTH: Final = 104
COMPRESSION_TYPE_AT: Final = 104
CREATED_HEADER_LENGTH: Final = 112
"""What new headers take: version 3 with the compression type and its padding, as QEMU writes them."""

BACKING_FIELDS_AT: Final = 8
BACKING_FIELDS: Final = struct.Struct(">QI")
SIZE_FIELDS_AT: Final = 24
SIZE_FIELDS: Final = struct.Struct(">QIIQ")
"""size, crypt method, L1 size, L1 offset: one write changes them together"""
REFCOUNT_FIELDS_AT: Final = 48
REFCOUNT_FIELDS: Final = struct.Struct(">QI")
AUTOCLEAR_AT: Final = 88

INCOMPATIBLE_DIRTY: Final = 1 << 0
INCOMPATIBLE_CORRUPT: Final = 1 << 1
INCOMPATIBLE_DATA_FILE: Final = 1 << 2
INCOMPATIBLE_COMPRESSION: Final = 1 << 3
INCOMPATIBLE_EXTENDED_L2: Final = 1 << 4
COMPATIBLE_LAZY_REFCOUNTS: Final = 1 << 0
INCOMPATIBLE_KNOWN: Final = (1 << 5) - 1

AUTOCLEAR_BITMAPS: Final = 1 << 0
"""The bitmaps extension is up to date; without it the extension means nothing."""

COMPRESSION_DEFLATE: Final = 0
COMPRESSION_ZSTD: Final = 1

# --- "Header extensions" ----------------------------------------------------------------------------------------------

EXTENSION: Final = struct.Struct(">II")
"""type, length of the data; the data is padded to a multiple of 8"""
EXTENSION_END: Final = 0
EXTENSION_BACKING_FORMAT: Final = 0xE2792ACA
EXTENSION_FEATURE_NAMES: Final = 0x6803F857
EXTENSION_BITMAPS: Final = 0x23852875
EXTENSION_ENCRYPTION: Final = 0x0537BE77
EXTENSION_DATA_FILE: Final = 0x44415441
BITMAPS: Final = struct.Struct(">IIQQ")
"""number of bitmaps, reserved, directory size, directory offset"""
BITMAP_ENTRY: Final = struct.Struct(">QIIBBHI")
"""table offset, table entries, flags, type, granularity bits, lengths of name and extra data"""
SNAPSHOT: Final = struct.Struct(">QIHHIIQII")
"""L1 offset, L1 entries, lengths of id and name, date in seconds and nanoseconds, clock, VM state, extra data"""
BITMAP_ENTRY_BYTES_MIN: Final = 24
"""Of an entry of the bitmap directory, without its extra data, its name and its padding."""
SNAPSHOT_BYTES_MIN: Final = 40
"""Of an entry of the snapshot table, without its extra data, its texts and its padding."""

FEATURE_NAMES: Final = b"".join(
    struct.pack(">BB46s", kind, bit, name)
    for kind, bit, name in (
        (0, 0, b"dirty bit"),
        (0, 1, b"corrupt bit"),
        (0, 2, b"external data file"),
        (0, 3, b"compression type"),
        (0, 4, b"extended L2 entries"),
        (1, 0, b"lazy refcounts"),
        (2, 0, b"bitmaps"),
        (2, 1, b"raw external data"),
    )
)
"""The feature name table: kind (0 incompatible, 1 compatible, 2 autoclear), bit, name. By it a program can name
bits that it doesn't know."""

# --- "Cluster mapping" ------------------------------------------------------------------------------------------------

ENTRY_SIZE: Final = 8
"""Of every table but extended L2 tables."""
EXTENDED_ENTRY_SIZE: Final = 16
"""Of an extended L2 table: a standard entry, then the bitmap of its subclusters."""
SUBCLUSTERS: Final = 32
"""Of a cluster that an extended L2 entry describes. Bit i of its bitmap: the i-th is allocated; bit 32 + i: it reads as
zeros."""
SUBCLUSTERS_ALLOCATED: Final = (1 << 32) - 1
"""The bitmap of a cluster whose bytes are all its own."""
SUBCLUSTERS_ZERO: Final = -(1 << 32)
"""The bitmap of a cluster that reads as zeros."""
EXTENDED_CLUSTER_BITS_MIN: Final = 14
COPIED: Final = -(1 << 63)
"""The refcount of what the entry points to is exactly one."""
COMPRESSED: Final = 1 << 62
ZERO: Final = 1 << 0
"""The cluster reads as zeros, whatever its host offset (version 3)."""
OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
L1_RESERVED: Final = 0x7F00_0000_0000_01FF
L2_RESERVED: Final = 0x3F00_0000_0000_01FE
"""Of standard entries in version 3; in version 2 the ZERO bit is reserved too."""

# --- limits -----------------------------------------------------------------------------------------------------------

CLUSTER_BITS_MIN: Final = 9
CLUSTER_BITS_MAX: Final = 21
L1_BYTES_MAX: Final = 32 * units.MIB
REFCOUNT_TABLE_BYTES_MAX: Final = 8 * units.MIB
REFCOUNT_ORDER_DEFAULT: Final = 4
REFCOUNT_ORDER_MAX: Final = 6
SNAPSHOTS_MAX: Final = 65_536
SNAPSHOT_TABLE_BYTES_MAX: Final = 64 * units.MIB
SNAPSHOT_EXTRA_BYTES_MAX: Final = 1_024
BITMAPS_MAX: Final = 65_535
BITMAP_DIRECTORY_BYTES_MAX: Final = 64 * units.MIB
BITMAP_NAME_MAX: Final = 1_023
BITMAP_TABLE_ENTRIES_MAX: Final = 1 << 27
BACKING_NAME_MAX: Final = 1_023
BACKING_FORMAT_MAX: Final = 15
BACKING_FORMAT_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
EXTENSIONS_MAX: Final = 64
"""QEMU itself writes at most five; a header with thousands is an attack on whoever keeps them."""
HOST_END_MAX: Final = 1 << 56
"""Offsets in tables have 56 bits."""
