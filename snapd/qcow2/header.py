"""The header of an image: parsed with every claim checked against the file, and serialised for new ones.

Refuses what the engine can't read safely (encryption, data files, unknown features) and what contradicts itself. Opens
nothing and follows no name. Source: qcow2 specification, "Header" and "Header extensions".
"""

import dataclasses
import itertools
import os

from snapd import errors, units
from snapd.qcow2 import layout

POINT_EXTENSION = 0x534E4150
"""Type of our own header extension, 'SNAP': which point the overlay froze. Its content is opaque here, up to 4 KiB."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an image says of itself. Offsets and sizes are bytes of the file unless the name says otherwise."""

    version: int
    cluster_bits: int
    size_bytes: int
    """Of the disk that the guest sees."""
    l1_size: int
    """Entries."""
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshot_count: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = layout.REFCOUNT_ORDER_DEFAULT
    header_length: int = layout.CREATED_HEADER_LENGTH
    compression_type: int = layout.COMPRESSION_DEFLATE
    backing_offset: int = 0
    backing_name: str | None = None
    extensions: tuple[tuple[int, bytes], ...] = ()

    @property
    def cluster_size(self) -> int:
        """Bytes."""
        return 1 << self.cluster_bits

    @property
    def extended_l2(self) -> bool:
        """Say whether L2 entries have a bitmap of subclusters."""
        return bool(self.incompatible & layout.INCOMPATIBLE_EXTENDED_L2)

    @property
    def entry_size(self) -> int:
        """Bytes of one L2 entry."""
        return layout.EXTENDED_ENTRY_SIZE if self.extended_l2 else layout.ENTRY_SIZE

    @property
    def table_entries(self) -> int:
        """Entries of one L2 table."""
        return self.cluster_size // self.entry_size

    @property
    def pointers_per_cluster(self) -> int:
        """Entries of one cluster of the L1 table or the refcount table."""
        return self.cluster_size // layout.ENTRY_SIZE

    @property
    def backing_format(self) -> str | None:
        """The backing file's format, if the header states it."""
        name = self.extension(layout.EXTENSION_BACKING_FORMAT)
        return None if name is None else name.decode("ascii")

    def extension(self, magic: int) -> bytes | None:
        """Return the data of the extension of that type, or None."""
        return next((data for kind, data in self.extensions if kind == magic), None)

    def extensions_end(self) -> int:
        """Return the offset of the first byte after the extension area, with its end marker."""
        return self.header_length + len(pack_extensions(self.extensions))

    def serialise(self) -> bytes:
        """Return a version 3 header with extensions and, right behind them, the backing name.

        Raises errors.ImageRefused if that is more than the first cluster holds.
        """
        name = (self.backing_name or "").encode()
        name_at = self.extensions_end() if name else 0
        data = layout.HEADER_V2.pack(
            layout.MAGIC, 3, name_at, len(name), self.cluster_bits, self.size_bytes, 0, self.l1_size, self.l1_offset,
            self.refcount_table_offset, self.refcount_table_clusters, self.snapshot_count, self.snapshots_offset,
        )  # fmt: skip
        data += layout.HEADER_V3.pack(
            self.incompatible, self.compatible, self.autoclear, self.refcount_order, self.header_length
        )
        data += bytes((self.compression_type,))
        data = data.ljust(self.header_length, b"\0") + pack_extensions(self.extensions) + name
        if len(data) > self.cluster_size:
            raise errors.ImageRefused(problem=f"a header of {len(data)} bytes in clusters of {self.cluster_size}")
        return data


def pack_extensions(extensions: tuple[tuple[int, bytes], ...]) -> bytes:
    """Return the extension area with its end marker."""
    area = b"".join(
        layout.EXTENSION.pack(magic, len(data)) + data.ljust(units.round_up(len(data), 8), b"\0")
        for magic, data in extensions
    )
    return area + layout.EXTENSION.pack(layout.EXTENSION_END, 0)


def l1_entries_for(size_bytes: int, cluster_bits: int, entry_size: int = layout.ENTRY_SIZE) -> int:
    """Return how many L1 entries a disk of that size takes with L2 entries of entry_size bytes."""
    return units.divide_up(size_bytes, (1 << 2 * cluster_bits) // entry_size)


def read(fd: int, file_size: int) -> Header:
    """Return the header of an open image of file_size bytes. Raises errors.ImageRefused."""
    start = os.pread(fd, layout.V3_LENGTH + 8, 0)
    _require(len(start) >= layout.V2_LENGTH, "the file is too short for a qcow2 header")
    cluster_bits = layout.HEADER_V2.unpack_from(start)[4]
    _require(layout.HEADER_V2.unpack_from(start)[0] == layout.MAGIC, "the file has no qcow2 magic")
    _require(layout.CLUSTER_BITS_MIN <= cluster_bits <= layout.CLUSTER_BITS_MAX, f"cluster bits {cluster_bits}")
    return parse(os.pread(fd, 1 << cluster_bits, 0), file_size)


def parse(first_cluster: bytes, file_size: int) -> Header:
    """Return the header that an image's first cluster holds; first_cluster is shorter if the file is.

    Raises errors.ImageRefused for whatever is not a readable image of ours or of QEMU's.
    """
    fields = layout.HEADER_V2.unpack_from(first_cluster)
    _, version, backing_offset, backing_size, cluster_bits, size, crypt, l1_size, l1_offset = fields[:9]
    _require(version in (2, 3), f"qcow2 version {version}")
    _require(crypt == 0, f"encryption method {crypt}")
    header = Header(
        version=version,
        cluster_bits=cluster_bits,
        size_bytes=size,
        l1_size=l1_size,
        l1_offset=l1_offset,
        refcount_table_offset=fields[9],
        refcount_table_clusters=fields[10],
        snapshot_count=fields[11],
        snapshots_offset=fields[12],
        header_length=layout.V2_LENGTH,
        backing_offset=backing_offset,
    )
    if version == 3:
        header = _with_version_3(header, first_cluster)
    backing_name = _backing_name(header, first_cluster, backing_size)
    area = first_cluster[header.header_length : backing_offset or len(first_cluster)]
    header = dataclasses.replace(header, backing_name=backing_name, extensions=_extensions(area))
    _check_extensions(header)
    _check_tables(header, file_size)
    return header


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise errors.ImageRefused(problem=problem)


def _with_version_3(header: Header, data: bytes) -> Header:
    _require(len(data) >= layout.V3_LENGTH, "the file is too short for a version 3 header")
    incompatible, compatible, autoclear, order, length = layout.HEADER_V3.unpack_from(data, layout.V2_LENGTH)
    _require(not incompatible & layout.INCOMPATIBLE_DATA_FILE, "it keeps its data in another file")
    _require(not incompatible & layout.INCOMPATIBLE_EXTENDED_L2, "extended L2 entries")
    unknown = incompatible >> layout.INCOMPATIBLE_EXTENDED_L2.bit_length()
    _require(not unknown, f"unknown incompatible features {incompatible:#x}")
    _require(
        not incompatible & layout.INCOMPATIBLE_EXTENDED_L2 or header.cluster_bits >= layout.EXTENDED_CLUSTER_BITS_MIN,
        f"extended L2 entries with clusters of {header.cluster_size} bytes",
    )
    _require(order <= layout.REFCOUNT_ORDER_MAX, f"refcount order {order}")
    _require(
        layout.V3_LENGTH <= length <= min(header.cluster_size, len(data)) and length % 8 == 0,
        f"a header length of {length}",
    )
    compression = data[layout.COMPRESSION_TYPE_AT] if length > layout.COMPRESSION_TYPE_AT else 0
    flagged = bool(incompatible & layout.INCOMPATIBLE_COMPRESSION)
    _require(compression <= layout.COMPRESSION_ZSTD, f"compression type {compression}")
    _require(flagged == (compression != 0), "the compression type contradicts its feature bit")
    return dataclasses.replace(
        header,
        incompatible=incompatible,
        compatible=compatible,
        autoclear=autoclear,
        refcount_order=order,
        header_length=length,
        compression_type=compression,
    )


def _backing_name(header: Header, data: bytes, length: int) -> str | None:
    offset = header.backing_offset
    if offset == 0:
        _require(length == 0, "a backing name without an offset")
        return None
    _require(1 <= length <= layout.BACKING_NAME_MAX, f"a backing name of {length} bytes")
    _require(
        header.header_length <= offset <= len(data) - length, "the backing name lies outside of the header's cluster"
    )
    try:
        name = data[offset : offset + length].decode()
    except UnicodeDecodeError as error:
        raise errors.ImageRefused(problem="the backing name is not UTF-8") from error
    _require(name.isprintable(), "control characters in the backing name")
    return name


def _extensions(area: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return the extensions of an area that an end marker or the backing name ends."""
    found: dict[int, bytes] = {}
    at = 0
    while at <= len(area) - layout.EXTENSION.size:
        magic, length = layout.EXTENSION.unpack_from(area, at)
        if magic == layout.EXTENSION_END:
            break
        at += layout.EXTENSION.size
        _require(length <= len(area) - at, f"header extension {magic:#x} of {length} bytes runs past its area")
        _require(magic not in found, f"header extension {magic:#x} comes twice")
        _require(len(found) < layout.EXTENSIONS_MAX, f"more than {layout.EXTENSIONS_MAX} header extensions")
        found[magic] = area[at : at + length]
        at += units.round_up(length, 8)
    return tuple(found.items())


def _check_extensions(header: Header) -> None:
    _require(header.extension(layout.EXTENSION_DATA_FILE) is None, "it names a data file")
    _require(header.extension(layout.EXTENSION_ENCRYPTION) is None, "it has an encryption header")
    backing_format = header.extension(layout.EXTENSION_BACKING_FORMAT)
    if backing_format is not None:
        _require(len(backing_format) <= layout.BACKING_FORMAT_MAX, "a long backing format name")
        _require(backing_format.isalnum() and backing_format.isascii(), "a strange backing format name")
    bitmaps = header.extension(layout.EXTENSION_BITMAPS)
    if bitmaps is not None:
        _require(len(bitmaps) == layout.BITMAPS.size, "a bitmaps extension of the wrong length")
        count, reserved, size, offset = layout.BITMAPS.unpack(bitmaps)
        _require(1 <= count <= layout.BITMAPS_MAX and reserved == 0, f"{count} bitmaps, reserved field {reserved}")
        _require(size <= layout.BITMAP_DIRECTORY_MAX, f"a bitmap directory of {size} bytes")
        _require(offset % header.cluster_size == 0, "a misaligned bitmap directory")


def _check_tables(header: Header, file_size: int) -> None:
    """Check that the tables which the header names are possible, inside the file, and apart from each other."""
    size, bits = header.size_bytes, header.cluster_bits
    _require(size % units.SECTOR == 0, f"a disk of {size} bytes is not whole sectors")
    _require(header.l1_size * layout.ENTRY_SIZE <= layout.L1_BYTES_MAX, f"an L1 table of {header.l1_size} entries")
    _require(
        l1_entries_for(size, bits, header.entry_size) <= header.l1_size,
        f"a disk of {size} bytes is more than its L1 table maps",
    )
    table_bytes = header.refcount_table_clusters << bits
    _require(
        0 < table_bytes <= layout.REFCOUNT_TABLE_BYTES_MAX,
        f"a refcount table of {header.refcount_table_clusters} clusters",
    )
    _require(header.snapshot_count <= layout.SNAPSHOTS_MAX, f"{header.snapshot_count} internal snapshots")
    ranges = [("refcount table", header.refcount_table_offset, table_bytes)]
    if header.l1_size:
        ranges.append(("L1 table", header.l1_offset, header.l1_size * layout.ENTRY_SIZE))
    if header.snapshot_count:
        # The shortest entry takes 40 bytes.
        ranges.append(("snapshot table", header.snapshots_offset, 40 * header.snapshot_count))
    for name, offset, length in ranges:
        _require(offset % header.cluster_size == 0, f"the {name} is misaligned")
        _require(offset >= header.cluster_size, f"the {name} lies in the header")
        _require(offset <= file_size - length, f"the {name} reaches past the end of the file")
    ranges.sort(key=lambda item: item[1])
    for (name, offset, length), (other, other_offset, _) in itertools.pairwise(ranges):
        _require(offset + length <= other_offset, f"the {name} overlaps the {other}")
