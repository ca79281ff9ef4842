"""Packs: objects of many blobs with their own index at the end, written once (docs/archive-format.md, "Packs").

Knows the bytes of one pack and nothing of who refers to it.
"""

import secrets
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from snapd import errors, units
from snapd.archive import codec, layout, names, pages
from snapd.archive.backends import backend

LARGEST: Final = 64 * units.MIB
TARGET: Final = 32 * units.MIB
MOST_BLOBS: Final = 65_535

_VERSION: Final = 1
_MAGIC: Final = b"SNPACK"
_END_MAGIC: Final = b"SNPACKED"
_HEADER: Final = struct.Struct(f"<6sHII{layout.PACK_ID_LENGTH}s")
_ROW: Final = struct.Struct(f"<{names.LENGTH}sIIIB3x")
_TRAILER_START: Final = struct.Struct("<II16x")
_TRAILER_LENGTH: Final = _TRAILER_START.size + names.LENGTH + len(_END_MAGIC)
_SMALLEST: Final = _HEADER.size + _TRAILER_LENGTH
_FIRST_READ: Final = 32 * units.KIB
"""What is read of a pack's end at first; it holds the trailer and the index of a usual pack."""

_RUN: Final = 4 * units.MIB
_SKIPPABLE_KIND: Final = 0x80


class Row(NamedTuple):
    """One blob of a pack, as its index has it."""

    name: bytes
    offset: int
    stored_length: int
    length: int
    """Bytes of the blob itself."""
    kind: int


class Index(NamedTuple):
    """What a pack says of itself. Checked when it was read."""

    pack_id: bytes
    size_bytes: int
    rows: tuple[Row, ...]

    @property
    def what(self) -> str:
        """How an error calls the pack."""
        return label(self.pack_id)


def label(pack_id: bytes) -> str:
    """Return how an error calls a pack."""
    return f"pack {pack_id.hex()}"


class Writer:
    """A pack that grows. Used by one thread at a time."""

    def __init__(self, store: backend.Backend, area: layout.Area, key: bytes) -> None:
        """Begin a pack with a random id. Raises errors.ArchiveUnreachable, errors.StorageFull."""
        self.pack_id = secrets.token_bytes(layout.PACK_ID_LENGTH)
        self._key = key
        self._rows: list[Row] = []
        self._header = _HEADER.pack(_MAGIC, _VERSION, 0, 0, self.pack_id)
        self._end = len(self._header)
        self._upload = store.upload(area.pack(self.pack_id))
        self._upload.append([self._header])

    def has_room(self, largest_blob: int) -> bool:
        """True if a blob of any size up to largest_blob can still be added to a pack that isn't full."""
        end = self._end + _TRAILER_LENGTH + (len(self._rows) + 1) * _ROW.size
        return self._end < TARGET and len(self._rows) < MOST_BLOBS and end + largest_blob + 1 <= LARGEST

    def reserve(self, kind: names.Kind, name: bytes, length: int, buffers: Sequence[backend.Bytes]) -> pages.Entry:
        """Return the entry of a blob of `length` bytes, encoded as buffers, which the next call has to append."""
        stored_length = sum(map(len, buffers))
        self._rows.append(Row(name, self._end, stored_length, length, kind))
        self._end += stored_length
        return pages.Entry(name, self.pack_id, self._rows[-1].offset, stored_length)

    def append(self, buffers: Sequence[backend.Bytes]) -> None:
        """Write the blob that was reserved."""
        self._upload.append(buffers)

    def finish(self) -> Index:
        """Publish the pack durably and return its index."""
        table = b"".join(_ROW.pack(*row) for row in self._rows)
        start = _TRAILER_START.pack(self._end, len(self._rows))
        checksum = names.keyed(self._key, names.Kind.PACK, self._header + table + start)
        self._upload.append([table, start, checksum, _END_MAGIC])
        self._upload.finish()
        return Index(self.pack_id, self._end + len(table) + _TRAILER_LENGTH, tuple(self._rows))

    def discard(self) -> None:
        """Forget the pack."""
        self._upload.discard()


def read_index(store: backend.Backend, area: layout.Area, pack_id: bytes, key: bytes) -> Index:
    """Return a pack's index. Raises errors.NotFound, errors.Corrupt, errors.ArchiveUnreachable."""
    object_key, what = area.pack(pack_id), label(pack_id)
    size_bytes = store.size(object_key)
    if size_bytes is None:
        raise errors.NotFound(resource_type="object", name=object_key)
    if not _SMALLEST <= size_bytes <= LARGEST:
        raise errors.Corrupt(what=what, problem=f"it is {size_bytes} bytes long")
    tail = store.get_range(object_key, size_bytes - min(size_bytes, _FIRST_READ), min(size_bytes, _FIRST_READ))
    trailer = tail[-_TRAILER_LENGTH:]
    index_offset, count = _TRAILER_START.unpack_from(trailer)
    if trailer[-len(_END_MAGIC) :] != _END_MAGIC or count > MOST_BLOBS:
        raise errors.Corrupt(what=what, problem="it doesn't end like a pack")
    index_length = count * _ROW.size
    if index_offset + index_length + _TRAILER_LENGTH != size_bytes or index_offset < _HEADER.size:
        raise errors.Corrupt(what=what, problem="its index isn't where it has to be")
    if index_length + _TRAILER_LENGTH > len(tail):
        tail = store.get_range(object_key, index_offset, size_bytes - index_offset)
    table = tail[-index_length - _TRAILER_LENGTH : -_TRAILER_LENGTH]
    header = store.get_range(object_key, 0, _HEADER.size)
    expected = names.keyed(key, names.Kind.PACK, header + table + trailer[: _TRAILER_START.size])
    if trailer[_TRAILER_START.size : -len(_END_MAGIC)] != expected:
        raise errors.Corrupt(what=what, problem="the checksum of its index doesn't match")
    if header != _HEADER.pack(_MAGIC, _VERSION, 0, 0, pack_id):
        raise errors.Corrupt(what=what, problem="its header is another pack's, or of another version")
    rows = tuple(Row(*fields) for fields in _ROW.iter_unpack(table))
    _check_rows(what, rows, index_offset)
    return Index(pack_id, size_bytes, rows)


def _check_rows(what: str, rows: Sequence[Row], end: int) -> None:
    """Raise errors.Corrupt unless the rows tile the space between the header and the index."""
    position = _HEADER.size
    for row in rows:
        if row.offset != position or not 1 <= row.stored_length <= end - position:
            raise errors.Corrupt(what=what, problem=f"its index has a gap at {position}")
        if row.kind not in (names.Kind.BLOCK, names.Kind.PAGE) and row.kind < _SKIPPABLE_KIND:
            raise errors.Corrupt(what=what, problem=f"it holds a blob of kind {row.kind}")
        if row.length > pages.LARGEST_BLOCK:
            raise errors.Corrupt(what=what, problem=f"it holds a blob of {row.length} bytes")
        position += row.stored_length
    if position != end:
        raise errors.Corrupt(what=what, problem=f"its index has a gap at {position}")


def verify(
    store: backend.Backend, area: layout.Area, pack_id: bytes, key: bytes, decoder: codec.Codec, size_bytes: int
) -> Index:
    """Read a pack back from the store, not from a cache, and check its length, its index and each blob's name.

    Returns its index. Raises errors.NotFound, errors.Corrupt, errors.ArchiveUnreachable.
    """
    store.drop_cache(area.pack(pack_id))
    index = read_index(store, area, pack_id, key)
    if index.size_bytes != size_bytes:
        raise errors.Corrupt(what=index.what, problem=f"it has {index.size_bytes} bytes, not {size_bytes}")
    for run in _runs(index.rows):
        start = run[0].offset
        data = memoryview(store.get_range(area.pack(pack_id), start, run[-1].offset + run[-1].stored_length - start))
        for row in run:
            if row.kind >= _SKIPPABLE_KIND:
                continue
            stored = data[row.offset - start : row.offset - start + row.stored_length]
            check_blob(pack_id, names.Kind(row.kind), row.name, decoder.decode(stored, row.length), key)
    return index


def check_blob(pack_id: bytes, kind: names.Kind, name: bytes, data: bytes, key: bytes) -> bytes:
    """Return a blob's bytes if they have its name, else raise errors.Corrupt."""
    if names.keyed(key, kind, data) != name:
        raise errors.Corrupt(what=f"{label(pack_id)}, blob {name.hex()}", problem="its bytes don't have its name")
    return data


def _runs(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield the rows in groups that are read at once."""
    run: list[Row] = []
    for row in rows:
        if run and row.offset + row.stored_length - run[0].offset > _RUN:
            yield run
            run = []
        run.append(row)
    if run:
        yield run
