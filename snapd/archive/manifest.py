"""Manifests: what a snapshot's disk holds, and the way from there to any of its bytes.

Owns the document and the reading of its tree. Every byte that it returns was checked by length and name.
"""

import collections
import dataclasses
import threading
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from snapd import errors, units
from snapd.archive import blobs, codec, documents, environment, layout, names, packtable, pages

_VERSION: Final = 1
_CACHED_PAGES: Final = 128
_WINDOW: Final = 16 * units.MIB
"""Guest data that read_blocks looks at together: recording threads fill packs side by side, so neighbours lie apart."""

_LARGEST_RUN: Final = 4 * units.MIB
_LARGEST_GAP: Final = 64 * units.KIB


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """What a recording did. Blocks are counted as the caller gave them."""

    blocks: int = 0
    """Blocks that were put, zero or not."""
    bytes_read: int = 0
    """Bytes that were put."""
    zero_blocks: int = 0
    deduplicated_blocks: int = 0
    """Blocks that the environment held already."""
    new_blocks: int = 0
    bytes_stored: int = 0
    """Bytes of blocks and pages that were stored, after compression."""


def what(snapshot_uid: str) -> str:
    """Return how an error calls a manifest."""
    return f"manifest of {snapshot_uid}"


def epoch_of(key: str) -> int:
    """Return the epoch in a manifest's key."""
    found = layout.versioned(key.rpartition("/")[2])
    assert found is not None, "a key that no listing of believed manifests gives"
    return found[1]


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """What a manifest's object says."""

    snapshot_uid: str
    epoch: int
    """Of the claim under which it is published."""
    size_bytes: int
    block_size: int
    root: pages.Entry
    packs: packtable.PackTable
    statistics: Statistics
    metadata: Mapping[str, documents.Json]

    @property
    def blocks(self) -> int:
        """How many blocks the disk has."""
        return pages.block_count(self.size_bytes, self.block_size)


def encode(home: environment.Environment, document: Document) -> bytes:
    """Return a manifest's object. Raises errors.InvalidField if the metadata aren't JSON or are too long."""
    members = {
        "version": _VERSION,
        "environment_uid": home.area.environment_uid,
        "host": home.area.host,
        "epoch": document.epoch,
        "snapshot_uid": document.snapshot_uid,
        "size_bytes": document.size_bytes,
        "block_size": document.block_size,
        "depth": pages.depth_for(document.blocks),
        "root": document.root.encode().hex(),
        "packs": documents.base64_text(packtable.encode(document.packs.references, document.packs.sizes)),
        "statistics": dataclasses.asdict(document.statistics),
        "metadata": dict(document.metadata),
    }
    if home.keyring is not None:
        key = home.area.manifest(document.snapshot_uid, document.epoch)
        sealed = home.keyring.seal_document(key, documents.encode(members, home.hash_manifest))
        members = {"version": _VERSION, "sealed": documents.base64_text(sealed)}
    return documents.encode(members, home.hash_manifest)


def decode(home: environment.Environment, snapshot_uid: str, epoch: int, data: bytes) -> Document:
    """Return what a manifest's object says.

    Raises errors.Corrupt unless it is of this environment, snapshot and epoch, and errors.ArchiveKeyMissing.
    """
    name = what(snapshot_uid)
    area = home.area
    members = documents.decode(name, data, home.hash_manifest, _VERSION)
    if home.keyring is not None:
        sealed = documents.base64_bytes(name, members.get("sealed"))
        opened = home.keyring.open_document(name, area.manifest(snapshot_uid, epoch), sealed)
        members = documents.decode(name, opened, home.hash_manifest, _VERSION)
    documents.expect(name, members, environment_uid=area.environment_uid, host=area.host)
    documents.expect(name, members, snapshot_uid=snapshot_uid, epoch=epoch)
    size_bytes = documents.integer(name, members, "size_bytes", 0, pages.LARGEST_DISK)
    block_size = documents.integer(name, members, "block_size", pages.SMALLEST_BLOCK, pages.LARGEST_BLOCK)
    blocks = pages.block_count(size_bytes, block_size)
    documents.expect(name, members, depth=pages.depth_for(blocks))
    statistics, metadata = members.get("statistics"), members.get("metadata")
    if not isinstance(statistics, dict) or not isinstance(metadata, dict):
        raise errors.Corrupt(what=name, problem="its statistics or metadata are no object")
    figures = {
        field.name: documents.integer(name, statistics, field.name, 0, 1 << 62)
        for field in dataclasses.fields(Statistics)
    }
    return Document(
        snapshot_uid,
        epoch,
        size_bytes,
        block_size,
        pages.decode(documents.hexadecimal(name, members.get("root"), pages.SIZE)),
        packtable.decode(name, documents.base64_bytes(name, members.get("packs"))),
        Statistics(**figures),
        metadata,
    )


class Manifest:
    """A published snapshot. Thread-safe."""

    def __init__(self, environment_blobs: blobs.Blobs, document: Document) -> None:
        """Read with environment_blobs what document says."""
        self.environment_uid = environment_blobs.home.area.environment_uid
        self.snapshot_uid = document.snapshot_uid
        self.size_bytes = document.size_bytes
        self.block_size = document.block_size
        self.blocks = document.blocks
        self.metadata = document.metadata
        self.statistics = document.statistics
        self.document = document
        self._blobs = environment_blobs
        self._depth = pages.depth_for(document.blocks)
        self._lock = threading.Lock()
        self._pages: collections.OrderedDict[pages.Entry, bytes] = collections.OrderedDict()

    def entries(self, first: int, count: int) -> pages.Entries:
        """Return the entries of blocks [first, first + count) as an array of pages.DTYPE; zeros read as zeros.

        Raises errors.OutOfRange, errors.Corrupt, errors.ArchiveUnreachable.
        """
        self._check_range(first, count)
        found = np.zeros(count, pages.DTYPE)
        self._fill(found, first, self._depth - 1, 0, self.document.root)
        return found

    def _fill(self, found: pages.Entries, first: int, level: int, number: int, entry: pages.Entry) -> None:
        """Put into `found` what lies below a page, of blocks [first, first + len(found))."""
        if entry.is_nothing:
            return
        page = self.page(entry)
        span = pages.FANOUT**level
        start = number * pages.FANOUT
        low = max(first // span, start)
        high = min((first + len(found) - 1) // span + 1, start + pages.FANOUT)
        if level == 0:
            if low < high:
                found[low - first : high - first] = pages.as_array(page)[low - start : high - start]
            return
        for child in range(low, high):
            self._fill(found, first, level - 1, child, pages.decode(page, child - start))

    def page(self, entry: pages.Entry) -> bytes:
        """Return a page of the tree, 14,336 bytes, from a small cache or the store."""
        with self._lock:
            page = self._pages.get(entry)
            if page is not None:
                self._pages.move_to_end(entry)
                return page
        page = self._blobs.read(names.Kind.PAGE, entry, pages.PAGE_SIZE)
        with self._lock:
            self._pages[entry] = page
            if len(self._pages) > _CACHED_PAGES:
                self._pages.popitem(last=False)
        return page

    def block_length(self, number: int) -> int:
        """Return the bytes of a block: block_size, except in the last one."""
        return pages.block_length(number, self.size_bytes, self.block_size)

    def read(self, number: int) -> bytes:
        """Return a block's bytes. Raises errors.OutOfRange, errors.Corrupt, errors.ArchiveUnreachable."""
        return self.read_entry(number, pages.decode(self.entries(number, 1).tobytes()))

    def read_entry(self, number: int, entry: pages.Entry) -> bytes:
        """Return the bytes of block `number`, whose entry is known. Raises as `read` does."""
        length = self.block_length(number)
        return bytes(length) if entry.is_nothing else self._blobs.read(names.Kind.BLOCK, entry, length)

    def read_blocks(self, first: int, count: int) -> Iterator[tuple[int, bytes]]:
        """Yield number and bytes of each block of [first, first + count) that isn't zero, in the order of the disk.

        Blobs that lie beside each other in a pack are fetched at once. At most 16 MiB of blocks (or one) are in memory.
        Raises errors.OutOfRange, errors.Corrupt, errors.ArchiveUnreachable.
        """
        self._check_range(first, count)
        window = max(1, _WINDOW // self.block_size)
        for low, high in self.held(first, count):
            for start in range(low, high, window):
                part = self.entries(start, min(window, high - start))
                data = dict(self._read_window(start, part))
                for number in sorted(data):
                    yield number, data.pop(number)

    def read_into(self, first: int, target: memoryview) -> list[tuple[int, int]]:
        """Put the blocks from `first` on into their places in target, which is whole blocks long, and at most 16 MiB.

        Returns the ranges [low, high) of target, in bytes and ascending, that were filled; what lies between reads as
        zeros, and target has there what it had. Raises as `read_blocks` does.
        """
        count = units.divide_up(len(target), self.block_size)
        part = self.entries(first, count)
        for number, data in self._read_window(first, part):
            begin = (number - first) * self.block_size
            target[begin : begin + len(data)] = data
        present = np.flatnonzero(part["name"].any(axis=1))
        heads = present[np.diff(present, prepend=-2) != 1] * self.block_size
        ends = (present[np.diff(present, append=count + 1) != 1] + 1) * self.block_size
        size_bytes = self.size_bytes - first * self.block_size
        return [(low, min(high, size_bytes)) for low, high in zip(heads.tolist(), ends.tolist(), strict=True)]

    def held(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges [low, high) of blocks of [first, first + count) outside of which all are zeros, ascending.

        Raises errors.OutOfRange, errors.Corrupt, errors.ArchiveUnreachable.
        """
        self._check_range(first, count)
        yield from self._held(self._depth - 1, 0, self.document.root, first, first + count)

    def _held(self, level: int, number: int, entry: pages.Entry, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of blocks of [first, end) that have pages, below page `number` of a level."""
        if entry.is_nothing:
            return
        span = pages.FANOUT ** (level + 1)
        if level == 0:
            yield max(first, number * span), min(end, (number + 1) * span)
            return
        page = self.page(entry)
        start = number * pages.FANOUT
        children = start + np.flatnonzero(pages.as_array(page)["name"].any(axis=1))
        below = span // pages.FANOUT
        for child in children[(children >= first // below) & (children <= (end - 1) // below)].tolist():
            yield from self._held(level - 1, child, pages.decode(page, child - start), first, end)

    def _read_window(self, start: int, part: pages.Entries) -> Iterator[tuple[int, bytes]]:
        present = np.flatnonzero(part["name"].any(axis=1))
        entries = {start + position: pages.decode(part[position].tobytes()) for position in present.tolist()}
        wanted = [(self._blobs.place(entry), number) for number, entry in entries.items()]
        wanted.sort(key=lambda item: (item[0].pack, item[0].offset))
        run: list[tuple[pages.Entry, int]] = []
        for item in wanted:
            if run and not _continues(run, item[0]):
                yield from self._read_run(run, entries)
                run = []
            run.append(item)
        if run:
            yield from self._read_run(run, entries)

    def _read_run(
        self, run: list[tuple[pages.Entry, int]], entries: Mapping[int, pages.Entry]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the blocks of a run of places in one pack, fetched at once; what isn't there, by its own entry."""
        begin = run[0][0].offset
        length = run[-1][0].offset + run[-1][0].length - begin
        try:
            if length > max(_LARGEST_RUN, codec.longest(self.block_size)):
                raise errors.Corrupt(what="entry", problem=f"it claims {length} bytes")
            key = self._blobs.home.area.pack(run[0][0].pack)
            fetched = memoryview(self._blobs.store.get_range(key, begin, length))
        except (errors.NotFound, errors.Corrupt):
            fetched = memoryview(b"")
        for place, number in run:
            stored = fetched[place.offset - begin : place.offset - begin + place.length]
            try:
                data = self._blobs.decode(names.Kind.BLOCK, place, self.block_length(number), stored)
            except (errors.Corrupt, errors.ArchiveKeyMissing):
                data = self.read_entry(number, entries[number])
            yield number, data

    def _check_range(self, first: int, count: int) -> None:
        if first < 0 or count < 0 or first > self.blocks - count:
            raise errors.OutOfRange(
                name=what(self.snapshot_uid),
                offset=first * self.block_size,
                length=count * self.block_size,
                size_bytes=self.size_bytes,
            )


def _continues(run: list[tuple[pages.Entry, int]], entry: pages.Entry) -> bool:
    """True if an entry can be fetched together with a run: same pack, close behind it, and not too much in all."""
    begin, last = run[0][0], run[-1][0]
    return (
        entry.pack == last.pack
        and entry.offset - (last.offset + last.length) <= _LARGEST_GAP
        and entry.offset + entry.length - begin.offset <= _LARGEST_RUN
    )
