"""The header of an image: parsed with every claim checked against the file, and serialised for new ones.

Refuses what the engine can't read safely (encryption, data files, unknown features) and what contradicts itself, at the
cost of reading one cluster, whatever the header claims. What a sound image may say but an import may not, as the name
of a backing file, is `vet`'s business. Opens nothing and follows no name. Source: qcow2 specification, "Header" and
"Header extensions".
"""

import dataclasses
import functools
import itertools
import os

from snapd import errors, units
from snapd.qcow2.format import foreign, layout

POINT_EXTENSION = 0x534E4150
"""Type of our own header extension, 'SNAP': whose head the file was made to be, and on which point it was put.

Its content is opaque here, up to 16 KiB.
"""


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
        return name.decode("ascii") if name else None

    @property
    def bitmaps(self) -> tuple[int, int, int]:
        """How many bitmaps there are, and offset and length of their directory: zeros if there are none.

        The extension counts only as long as its autoclear bit says that whoever wrote last knew of it.
        """
        data = self.extension(layout.EXTENSION_BITMAPS)
        if data is None or not self.autoclear & layout.AUTOCLEAR_BITMAPS:
            return 0, 0, 0
        count, _, length, offset = layout.BITMAPS.unpack(data)
        return count, offset, length

    def extension(self, magic: int) -> bytes | None:
        """Return the data of the extension of that type, or None."""
        return next((data for kind, data in self.extensions if kind == magic), None)

    def extensions_end(self) -> int:
        """Return the offset of the first byte after the extension area, with its end marker."""
        return self.header_length + len(pack_extensions(self.extensions))

    def serialise(self) -> bytes:
        """Return the header with extensions and, right behind them, the backing name.

        Raises errors.ImageRefused if that is more than the first cluster holds.
        """
        name = (self.backing_name or "").encode()
        name_at = self.extensions_end() if name else 0
        data = layout.HEADER_V2.pack(
            layout.MAGIC, self.version, name_at, len(name), self.cluster_bits, self.size_bytes, 0, self.l1_size,
            self.l1_offset, self.refcount_table_offset, self.refcount_table_clusters, self.snapshot_count,
            self.snapshots_offset,
        )  # fmt: skip
        if self.version >= 3:
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
    """Return the header of an open image of file_size bytes.

    Raises errors.ImageRefused for whatever is not a readable image of ours or of QEMU's.
    """
    start = os.pread(fd, layout.V2_LENGTH, 0)
    if start[:4] != layout.MAGIC.to_bytes(4):
        found = foreign.look(functools.partial(os.pread, fd), file_size)
        raise errors.ImageRefused(problem=foreign.why_not_qcow2(found))
    _require(len(start) == layout.V2_LENGTH, f"it ends within its header, after {len(start)} bytes")
    _, version, _, _, cluster_bits, *_ = layout.HEADER_V2.unpack(start)
    _require(version in (2, 3), f"qcow2 version {version}; versions 2 and 3 can be read")
    _require(
        layout.CLUSTER_BITS_MIN <= cluster_bits <= layout.CLUSTER_BITS_MAX,
        f"clusters of 2^{cluster_bits} bytes; they have 2^{layout.CLUSTER_BITS_MIN} to 2^{layout.CLUSTER_BITS_MAX}",
    )
    return _parse(os.pread(fd, 1 << cluster_bits, 0), file_size)


def _parse(first_cluster: bytes, file_size: int) -> Header:
    """Return the header that an image's first cluster holds; first_cluster is shorter if the file is.

    Its magic, version and cluster size are known to be good.
    """
    fields = layout.HEADER_V2.unpack_from(first_cluster)
    _, version, backing_offset, backing_size, cluster_bits, size, crypt, l1_size, l1_offset = fields[:9]
    _require(crypt == 0, f"it is encrypted, by method {crypt}")
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
    _check_sizes(header)
    _check_places(header, file_size)
    return header


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise errors.ImageRefused(problem=problem)


def _with_version_3(header: Header, data: bytes) -> Header:
    _require(len(data) >= layout.V3_LENGTH, f"it ends within its header, after {len(data)} bytes")
    incompatible, compatible, autoclear, order, length = layout.HEADER_V3.unpack_from(data, layout.V2_LENGTH)
    _require(not incompatible & layout.INCOMPATIBLE_DATA_FILE, "it keeps its data in another file")
    unknown = incompatible & ~layout.INCOMPATIBLE_KNOWN
    _require(not unknown, f"it needs features that are not known here: incompatible bits {unknown:#x}")
    _require(
        not incompatible & layout.INCOMPATIBLE_EXTENDED_L2 or header.cluster_bits >= layout.EXTENDED_CLUSTER_BITS_MIN,
        f"extended L2 entries with clusters of {header.cluster_size} bytes",
    )
    _require(order <= layout.REFCOUNT_ORDER_MAX, f"refcount order {order}; it can be up to {layout.REFCOUNT_ORDER_MAX}")
    _require(
        layout.V3_LENGTH <= length <= min(header.cluster_size, len(data)) and length % 8 == 0,
        f"a header length of {length}",
    )
    compression = data[layout.COMPRESSION_TYPE_AT] if length > layout.COMPRESSION_TYPE_AT else 0
    flagged = bool(incompatible & layout.INCOMPATIBLE_COMPRESSION)
    _require(compression <= layout.COMPRESSION_ZSTD, f"compression type {compression} is not known here")
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
    """Return the backing name as text: it is shown to people and compared, and never used to open anything."""
    offset = header.backing_offset
    if offset == 0:
        _require(length == 0, f"a backing name of {length} bytes without an offset")
        return None
    _require(
        1 <= length <= layout.BACKING_NAME_MAX,
        f"a backing name of {length} bytes; it has 1 to {layout.BACKING_NAME_MAX}",
    )
    _require(offset >= header.header_length, "the backing name lies within the fixed part of the header")
    _require(offset <= len(data) - length, "the backing name reaches past the header's cluster")
    name = data[offset : offset + length]
    _require(b"\0" not in name, "a zero byte in the backing name, after which some programs don't read on")
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise errors.ImageRefused(problem="the backing name is not UTF-8") from error
    _require(text.isprintable(), "control characters in the backing name")
    return text


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
    if backing_format:
        _require(
            len(backing_format) <= layout.BACKING_FORMAT_MAX,
            f"a backing format name of {len(backing_format)} bytes; it has up to {layout.BACKING_FORMAT_MAX}",
        )
        _require(set(backing_format) <= layout.BACKING_FORMAT_BYTES, "strange characters in the backing format name")
    bitmaps = header.extension(layout.EXTENSION_BITMAPS)
    if bitmaps is not None:
        _require(len(bitmaps) == layout.BITMAPS.size, f"a bitmaps extension of {len(bitmaps)} bytes")
    if bitmaps is not None and header.autoclear & layout.AUTOCLEAR_BITMAPS:
        count, reserved, size, _ = layout.BITMAPS.unpack(bitmaps)
        _require(1 <= count <= layout.BITMAPS_MAX, f"{count} bitmaps; there can be 1 to {layout.BITMAPS_MAX}")
        _require(reserved == 0, f"{reserved} in a reserved field of the bitmaps extension")
        _require(
            layout.BITMAP_ENTRY_BYTES_MIN * count <= size <= layout.BITMAP_DIRECTORY_BYTES_MAX,
            f"a bitmap directory of {size} bytes for {count} bitmaps",
        )


def _check_sizes(header: Header) -> None:
    """Check that the disk and the tables have possible sizes, which fit each other."""
    size = header.size_bytes
    _require(size % units.SECTOR == 0, f"a disk of {size} bytes is not whole sectors of {units.SECTOR}")
    _require(header.l1_size * layout.ENTRY_SIZE <= layout.L1_BYTES_MAX, f"an L1 table of {header.l1_size} entries")
    _require(
        l1_entries_for(size, header.cluster_bits, header.entry_size) <= header.l1_size,
        f"a disk of {size} bytes is more than its L1 table of {header.l1_size} entries maps",
    )
    _require(
        0 < header.refcount_table_clusters << header.cluster_bits <= layout.REFCOUNT_TABLE_BYTES_MAX,
        f"a refcount table of {header.refcount_table_clusters} clusters",
    )
    _require(
        header.snapshot_count <= layout.SNAPSHOTS_MAX,
        f"{header.snapshot_count} internal snapshots; there can be {layout.SNAPSHOTS_MAX}",
    )


def _check_places(header: Header, file_size: int) -> None:
    """Check that what the header points to lies at a cluster, inside the file, and apart from all the rest."""
    count, directory, directory_bytes = header.bitmaps
    l1_bytes = header.l1_size * layout.ENTRY_SIZE
    snapshots_bytes = header.snapshot_count * layout.SNAPSHOT_BYTES_MIN
    ranges = [
        ("refcount table", header.refcount_table_offset, header.refcount_table_clusters * header.cluster_size),
        *([("L1 table", header.l1_offset, l1_bytes)] if l1_bytes else []),
        *([("snapshot table", header.snapshots_offset, snapshots_bytes)] if snapshots_bytes else []),
        *([("bitmap directory", directory, directory_bytes)] if count else []),
    ]
    # Of a table without entries, as of QEMU's, only the offset has to be one.
    for name, offset in (("L1 table", header.l1_offset), ("snapshot table", header.snapshots_offset)):
        _require(offset < 1 << 63, f"the {name} reaches past the end of the file")
    for name, offset, length in ranges:
        _require(offset % header.cluster_size == 0, f"the {name} is misaligned: it begins at offset {offset}")
        _require(offset >= header.cluster_size, f"the {name} lies in the header's cluster")
        _require(offset <= file_size - length, f"the {name} reaches past the end of the file")
    ranges.sort(key=lambda item: item[1])
    for (name, offset, length), (other, other_offset, _) in itertools.pairwise(ranges):
        _require(offset + length <= other_offset, f"the {name} overlaps the {other}")
