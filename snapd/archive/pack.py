"""Packs: objects of many blobs with their own index at the end, written once (docs/archive-format.md, "Packs").

Knows the bytes of one pack and nothing of who refers to it.
"""

import secrets
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from snapd import errors, units
from snapd.archive import codec, environment, layout, names, pages
from snapd.archive.backends import backend

LARGEST: Final = 64 * units.MIB
TARGET: Final = 32 * units.MIB
MOST_BLOBS: Final = 65_535

_VERSION: Final = 1
_MAGIC: Final = b"SNPACK"
_END_MAGIC: Final = b"SNPACKED"
_HEADER: Final = struct.Struct(f"<6sHII{layout.PACK_ID_LENGTH}s")
_ROW: Final = struct.Struct(f"<{names.LENGTH}sIIIB3x")
_BODY_HASH_LENGTH: Final = 16
_TRAILER_START: Final = struct.Struct(f"<II{_BODY_HASH_LENGTH}s")
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

    def __init__(self, store: backend.Backend, home: environment.Environment, epoch: int) -> None:
        """Begin a pack with a random id. Raises errors.ArchiveUnreachable, errors.StorageFull."""
        self.pack_id = secrets.token_bytes(layout.PACK_ID_LENGTH)
        self._home = home
        self._rows: list[Row] = []
        self._header = _HEADER.pack(_MAGIC, _VERSION, 0, epoch, self.pack_id)
        self._end = len(self._header)
        self._body = names.Hasher(home.key, names.Kind.BODY)
        self._upload = store.upload(home.area.pack(self.pack_id))
        try:
            self._append([self._header])
        except BaseException:
            self._upload.discard()
            raise

    def has_room(self, largest_blob: int) -> bool:
        """True if a blob of any size up to largest_blob can still be added to a pack that isn't full."""
        end = self._end + _TRAILER_LENGTH + (len(self._rows) + 1) * _ROW.size
        return self._end < TARGET and len(self._rows) < MOST_BLOBS and end + codec.longest(largest_blob) <= LARGEST

    def seal(self, kind: names.Kind, name: bytes, buffers: Sequence[backend.Bytes]) -> Sequence[backend.Bytes]:
        """Return an encoded blob as it is stored if it is the next one in this pack: encrypted, if the archive is."""
        keyring = self._home.keyring
        if keyring is None:
            return buffers
        sealed = keyring.seal_blob(self.pack_id, self._end, _context(kind, name), b"".join(buffers))
        return [codec.SEALED, *sealed]

    def reserve(self, kind: names.Kind, name: bytes, length: int, buffers: Sequence[backend.Bytes]) -> pages.Entry:
        """Return the entry of a blob of `length` bytes, stored as buffers, which the next call has to append."""
        stored_length = sum(map(len, buffers))
        self._rows.append(Row(name, self._end, stored_length, length, kind))
        self._end += stored_length
        return pages.Entry(name, self.pack_id, self._rows[-1].offset, stored_length)

    def append(self, buffers: Sequence[backend.Bytes]) -> None:
        """Write the blob that was reserved."""
        self._append(buffers)

    def finish(self) -> Index:
        """Publish the pack durably and return its index."""
        table = b"".join(_ROW.pack(*row) for row in self._rows)
        start = _TRAILER_START.pack(self._end, len(self._rows), self._body.digest()[:_BODY_HASH_LENGTH])
        checksum = names.keyed(self._home.key, names.Kind.PACK, self._header + table + start)
        self._upload.append([table, start, checksum, _END_MAGIC])
        self._upload.finish()
        return Index(self.pack_id, self._end + len(table) + _TRAILER_LENGTH, tuple(self._rows))

    def discard(self) -> None:
        """Forget the pack."""
        self._upload.discard()

    def _append(self, buffers: Sequence[backend.Bytes]) -> None:
        for buffer in buffers:
            self._body.update(buffer)
        self._upload.append(buffers)


class _Tail(NamedTuple):
    """The end of a pack, taken apart and checked against the header."""

    listed: Index
    index_offset: int
    body_hash: bytes


def read_index(store: backend.Backend, home: environment.Environment, pack_id: bytes) -> Index:
    """Return a pack's index, in two or three small reads.

    Raises errors.NotFound, errors.Corrupt, errors.ArchiveUnreachable.
    """
    return _read_tail(store, home, pack_id).listed


def _read_tail(store: backend.Backend, home: environment.Environment, pack_id: bytes) -> _Tail:
    object_key, size_bytes = home.area.pack(pack_id), _size(store, home, pack_id)
    tail = store.get_range(object_key, size_bytes - min(size_bytes, _FIRST_READ), min(size_bytes, _FIRST_READ))
    index_offset = _index_offset(label(pack_id), tail, size_bytes)
    if size_bytes - index_offset > len(tail):
        tail = store.get_range(object_key, index_offset, size_bytes - index_offset)
    header = store.get_range(object_key, 0, _HEADER.size)
    return _take_apart(home, pack_id, header, tail[index_offset - size_bytes :], size_bytes)


def _size(store: backend.Backend, home: environment.Environment, pack_id: bytes) -> int:
    size_bytes = store.size(home.area.pack(pack_id))
    if size_bytes is None:
        raise errors.NotFound(resource_type="object", name=home.area.pack(pack_id))
    if not _SMALLEST <= size_bytes <= LARGEST:
        raise errors.Corrupt(what=label(pack_id), problem=f"it is {size_bytes} bytes long")
    return size_bytes


def _index_offset(what: str, tail: backend.Bytes, size_bytes: int) -> int:
    """Return where the index begins, from a pack's last bytes, which hold at least the trailer."""
    index_offset, count, _ = _TRAILER_START.unpack_from(tail, len(tail) - _TRAILER_LENGTH)
    if bytes(tail[-len(_END_MAGIC) :]) != _END_MAGIC or count > MOST_BLOBS:
        raise errors.Corrupt(what=what, problem="it doesn't end like a pack")
    if index_offset + count * _ROW.size + _TRAILER_LENGTH != size_bytes or index_offset < _HEADER.size:
        raise errors.Corrupt(what=what, problem="its index isn't where it has to be")
    return int(index_offset)


def _take_apart(
    home: environment.Environment, pack_id: bytes, header: backend.Bytes, end: backend.Bytes, size_bytes: int
) -> _Tail:
    """Return what header and end (index and trailer) of a pack say, checked. Raises errors.Corrupt."""
    what = label(pack_id)
    table, trailer = bytes(end[:-_TRAILER_LENGTH]), bytes(end[-_TRAILER_LENGTH:])
    expected = names.keyed(home.key, names.Kind.PACK, bytes(header) + table + trailer[: _TRAILER_START.size])
    if trailer[_TRAILER_START.size : -len(_END_MAGIC)] != expected:
        raise errors.Corrupt(what=what, problem="the checksum of its index doesn't match")
    magic, version, flags, _, found = _HEADER.unpack(header)
    if (magic, version, flags, found) != (_MAGIC, _VERSION, 0, pack_id):
        raise errors.Corrupt(what=what, problem="its header is another pack's, or of another version")
    index_offset, _, body_hash = _TRAILER_START.unpack_from(trailer)
    rows = tuple(Row(*fields) for fields in _ROW.iter_unpack(table))
    _check_rows(what, rows, index_offset)
    return _Tail(Index(pack_id, size_bytes, rows), index_offset, body_hash)


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


def prove(store: backend.Backend, home: environment.Environment, pack_id: bytes, size_bytes: int) -> Index:
    """Read a pack back from the store, not from a cache, and check that each byte is what its writer wrote.

    It is hashed as it is stored, which costs a fraction of decoding it; `verify` decodes. Returns its index. Raises
    errors.NotFound, errors.Corrupt, errors.ArchiveUnreachable.
    """
    object_key = home.area.pack(pack_id)
    store.drop_cache(object_key)
    tail = _read_tail(store, home, pack_id)
    if tail.listed.size_bytes != size_bytes:
        raise errors.Corrupt(what=tail.listed.what, problem=f"it has {tail.listed.size_bytes} bytes, not {size_bytes}")
    body = names.Hasher(home.key, names.Kind.BODY)
    for start in range(0, tail.index_offset, _RUN):
        body.update(store.get_range(object_key, start, min(_RUN, tail.index_offset - start)))
    _check_body(tail, body)
    return tail.listed


def is_damaged(store: backend.Backend, home: environment.Environment, pack_id: bytes) -> bool:
    """Say whether a pack isn't what its writer wrote, byte for byte. Raises errors.ArchiveUnreachable."""
    try:
        prove(store, home, pack_id, _size(store, home, pack_id))
    except (errors.NotFound, errors.Corrupt):
        return True
    return False


def verify(
    store: backend.Backend, home: environment.Environment, pack_id: bytes, decoder: codec.Codec, size_bytes: int
) -> Index:
    """Read a pack back from the store, not from a cache, and check its length, each byte, and each blob's name.

    Returns its index. Raises errors.NotFound, errors.Corrupt, errors.ArchiveUnreachable; errors.ArchiveKeyMissing only
    if it is as it was written.
    """
    object_key = home.area.pack(pack_id)
    store.drop_cache(object_key)
    tail = _read_tail(store, home, pack_id)
    index = tail.listed
    if index.size_bytes != size_bytes:
        raise errors.Corrupt(what=index.what, problem=f"it has {index.size_bytes} bytes, not {size_bytes}")
    body = names.Hasher(home.key, names.Kind.BODY)
    body.update(store.get_range(object_key, 0, _HEADER.size))
    key_missing: errors.ArchiveKeyMissing | None = None
    for row, stored in read_rows(store, home, pack_id, index.rows):
        body.update(stored)
        if row.kind >= _SKIPPABLE_KIND:
            continue
        try:
            entry = pages.Entry(row.name, pack_id, row.offset, row.stored_length)
            decode_blob(home, decoder, names.Kind(row.kind), entry, row.length, stored)
        except errors.ArchiveKeyMissing as error:
            # Or the key's id was hit by damage, and the body's hash will tell.
            key_missing = error
    _check_body(tail, body)
    if key_missing is not None:
        raise key_missing
    return index


def _check_body(tail: _Tail, body: names.Hasher) -> None:
    """Raise errors.Corrupt unless what was hashed of a pack is what its writer wrote before the index."""
    if body.digest()[:_BODY_HASH_LENGTH] != tail.body_hash:
        raise errors.Corrupt(what=tail.listed.what, problem="its bytes aren't those that were written")


def read_rows(
    store: backend.Backend, home: environment.Environment, pack_id: bytes, rows: Sequence[Row]
) -> Iterator[tuple[Row, memoryview]]:
    """Yield some rows of a pack, ascending, each with its bytes as they are stored; neighbours are fetched at once."""
    for run in _runs(rows):
        start = run[0].offset
        length = run[-1].offset + run[-1].stored_length - start
        data = memoryview(store.get_range(home.area.pack(pack_id), start, length))
        for row in run:
            yield row, data[row.offset - start : row.offset - start + row.stored_length]


def decode_blob(
    home: environment.Environment,
    decoder: codec.Codec,
    kind: names.Kind,
    entry: pages.Entry,
    length: int,
    stored: backend.Bytes,
) -> bytes:
    """Return the `length` bytes of a blob that is stored in a pack as `stored`, if they have its name.

    Raises errors.Corrupt, errors.ArchiveKeyMissing.
    """
    view = memoryview(stored)
    if (bytes(view[:1]) == codec.SEALED) is not (home.keyring is not None):
        raise errors.Corrupt(what=label(entry.pack), problem="a blob is encrypted, or isn't, unlike its archive")
    if home.keyring is not None:
        context = _context(kind, entry.name)
        view = memoryview(home.keyring.open_blob(entry.pack, entry.offset, context, view[1:]))
    data = decoder.decode(view, length)
    if names.keyed(home.key, kind, data) != entry.name:
        raise errors.Corrupt(
            what=f"{label(entry.pack)}, blob {entry.name.hex()}", problem="its bytes don't have its name"
        )
    return data


def _context(kind: names.Kind, name: bytes) -> bytes:
    """Return what a sealed blob is authenticated with."""
    return bytes([kind]) + name


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
