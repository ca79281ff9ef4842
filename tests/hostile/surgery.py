"""Images that are sound until a test changes some of their bytes, and the knives for it."""

import functools
import itertools
import os
import pathlib
import random
import struct
import tempfile
import zlib

from snapd import units
from snapd.qcow2.format import header, layout
from snapd.qcow2.writing import create, writer

CLUSTER = 64 * units.KIB
SIZE = 4 * units.MIB
NOISE = random.Random(41).randbytes(4 * CLUSTER)
"""What the first guest clusters of a patient hold."""

COPIED = 1 << 63
COMPRESSED = 1 << 62
BACKING_AT = 60_000
"""A place in the header's cluster that nothing uses."""


def u32(value: int) -> bytes:
    """Return a number as the format has it."""
    return value.to_bytes(4)


def u64(value: int) -> bytes:
    """Return a number as the format has it."""
    return value.to_bytes(8)


def extension(magic: int, data: bytes) -> bytes:
    """Return a header extension."""
    return layout.EXTENSION.pack(magic, len(data)) + data.ljust(units.round_up(len(data), 8), b"\0")


@functools.cache
def _sound_image(size_bytes: int, cluster_size: int) -> bytes:
    """Return an image whose disk begins with NOISE; kept, since making one waits for the disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "disk")
        create.create(path, size_bytes=size_bytes, cluster_size=cluster_size)
        with writer.Writer.open(path) as target:
            target.write(0, NOISE)
        return path.read_bytes()


class Patient:
    """A small sound image of version 3 whose first four guest clusters lie in a row, in one L2 table."""

    def __init__(self, path: pathlib.Path, *, size_bytes: int = SIZE, cluster_size: int = CLUSTER) -> None:
        self.path = path
        path.write_bytes(_sound_image(size_bytes, cluster_size))
        with path.open("rb") as file:
            self.header = header.read(file.fileno(), path.stat().st_size)
        self.l1 = self.header.l1_offset
        self.refcount_table = self.header.refcount_table_offset
        self.refcount_block = self.word(self.refcount_table)
        self.l2 = self.offset_in(self.l1)
        self.data = self.offset_in(self.l2)

    @property
    def end(self) -> int:
        """Where the file ends."""
        return self.path.stat().st_size

    def word(self, offset: int) -> int:
        """Return the 64-bit number at an offset of the file."""
        with self.path.open("rb") as file:
            return int.from_bytes(os.pread(file.fileno(), 8, offset))

    def offset_in(self, offset: int) -> int:
        """Return the host offset that the table entry at an offset of the file holds."""
        return self.word(offset) & layout.OFFSET_MASK

    def put(self, offset: int, data: bytes) -> None:
        """Write bytes over what is there."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def set_l1(self, entry: int, index: int = 0) -> None:
        """Write an L1 entry."""
        self.put(self.l1 + 8 * index, u64(entry))

    def set_l2(self, entry: int, index: int = 0) -> None:
        """Write an L2 entry."""
        self.put(self.l2 + 8 * index, u64(entry))

    def set_refcount(self, host: int, count: int) -> None:
        """Write the refcount of the cluster at a host offset."""
        self.put(self.refcount_block + 2 * (host // self.header.cluster_size), count.to_bytes(2))

    def append(self, data: bytes) -> int:
        """Add whole clusters to the file, each with a refcount of one, and return their offset."""
        size = self.header.cluster_size
        offset = units.round_up(self.end, size)
        self.put(offset, data.ljust(units.round_up(len(data), size), b"\0"))
        for host in range(offset, self.end, size):
            self.set_refcount(host, 1)
        return offset

    def set_extensions(self, *extensions: bytes) -> None:
        """Write header extensions and an end marker over those that are there."""
        self.put(self.header.header_length, b"".join(extensions) + layout.EXTENSION.pack(layout.EXTENSION_END, 0))

    def set_backing(self, name: bytes, *, offset: int = BACKING_AT, length: int | None = None) -> None:
        """Write a backing name, or what is one by half."""
        if offset < CLUSTER:
            self.put(offset or BACKING_AT, name)
        self.put(layout.BACKING_FIELDS_AT, layout.BACKING_FIELDS.pack(offset, len(name) if length is None else length))

    def set_compressed(self, stream: bytes, *, sectors: int | None = None, flags: int = 0, index: int = 0) -> int:
        """Have a guest cluster be compressed, of a stream in clusters of its own; return the entry."""
        offset = self.append(stream)
        entry = compressed_entry(offset, units.divide_up(len(stream), 512) if sectors is None else sectors) | flags
        self.set_l2(entry, index)
        return entry


def compressed_entry(offset: int, sectors: int, cluster_size: int = CLUSTER) -> int:
    """Return the L2 entry of a compressed cluster of that many sectors, from the one in which it begins on."""
    return COMPRESSED | (sectors - 1) << 62 - (cluster_size.bit_length() - 1 - 8) | offset


def deflated(data: bytes) -> bytes:
    """Return data as QEMU compresses it."""
    packer = zlib.compressobj(9, wbits=-12)
    return packer.compress(data) + packer.flush()


def snapshot(
    *,
    l1_offset: int,
    l1_size: int = 1,
    name: bytes = b"one",
    uid: bytes = b"1",
    size_bytes: int = SIZE,
    extra: bytes | None = None,
    extra_length: int | None = None,
    name_length: int | None = None,
) -> bytes:
    """Return an entry of the snapshot table, sound unless lengths are given that aren't."""
    extra = struct.pack(">QQ", 0, size_bytes) if extra is None else extra
    fixed = struct.pack(
        ">QIHHIIQII",
        l1_offset,
        l1_size,
        len(uid),
        len(name) if name_length is None else name_length,
        1_700_000_000,
        0,
        0,
        0,
        len(extra) if extra_length is None else extra_length,
    )
    entry = fixed + extra + uid + name
    return entry.ljust(units.round_up(len(entry), 8), b"\0")


def distinct_extensions(count: int) -> bytes:
    """Return as many empty extensions of different types."""
    return b"".join(extension(magic, b"") for magic in itertools.islice(itertools.count(0x1000), count))
