"""Blobs of one environment, read: by the place in an entry, by name when they aren't there, and always checked.

Wrong bytes are never returned. A pack that is found damaged or missing is marked in the index, so that it is no hit
for deduplication.
"""

import collections
import datetime
import threading
from collections.abc import Callable
from typing import Final

from snapd import errors
from snapd.archive import codec, environment, index, names, pack, pages, pins
from snapd.archive import moves as moving
from snapd.archive.backends import backend
from snapd.archive.fencing import tombstones
from snapd.archive.fencing import view as views

_CACHED_ROWS: Final = 1 << 16
"""Rows of pack indexes held in memory, some 20 MB: about 500 usual packs, or the largest one."""


class Blobs:
    """Reads an environment's blobs. Thread-safe."""

    def __init__(
        self,
        store: backend.Backend,
        home: environment.Environment,
        domain: str,
        decoder: codec.Codec,
        local_index: index.Index,
        pinned: pins.Pins,
        moves: moving.Moves,
        check_reachable: Callable[[], None],
        now: Callable[[], datetime.datetime],
    ) -> None:
        """The index has the environment's packs under `domain`. check_reachable raises errors.ArchiveUnreachable if the
        whole store, and not just one object, is missing.
        """
        self.store = store
        self.home = home
        self.domain = domain
        self.codec = decoder
        self.index = local_index
        self.pins = pinned
        self.moves = moves
        self.check_reachable = check_reachable
        self.now = now
        self._lock = threading.Lock()
        self._rows: collections.OrderedDict[bytes, dict[bytes, pages.Entry]] = collections.OrderedDict()
        self._row_count = 0

    def read(self, kind: names.Kind, entry: pages.Entry, length: int) -> bytes:
        """Return the `length` bytes of a blob.

        Raises errors.Corrupt, naming pack and blob, errors.ArchiveKeyMissing, or errors.ArchiveUnreachable.
        """
        place = self.place(entry)
        try:
            if place.length > codec.longest(length):
                raise errors.Corrupt(what="entry", problem=f"it claims {place.length} bytes for {length}")
            stored = self.store.get_range(self.home.area.pack(place.pack), place.offset, place.length)
            return self.decode(kind, place, length, stored)
        except (errors.NotFound, errors.Corrupt, errors.ArchiveKeyMissing) as error:
            return self._read_elsewhere(kind, entry, place, length, error)

    def decode(self, kind: names.Kind, entry: pages.Entry, length: int, stored: backend.Bytes) -> bytes:
        """Return the `length` bytes of a blob that was read as `stored`. Raises errors.Corrupt."""
        return pack.decode_blob(self.home, self.codec, kind, entry, length, stored)

    def place(self, entry: pages.Entry) -> pages.Entry:
        """Return where a blob lies now, as far as is known: its pack may have been moved."""
        for target in self.moves.targets(entry.pack):
            moved = self.locate(target, entry.name)
            if moved is not None:
                return moved
        return entry

    def _read_elsewhere(
        self,
        kind: names.Kind,
        entry: pages.Entry,
        place: pages.Entry,
        length: int,
        first: errors.NotFound | errors.Corrupt | errors.ArchiveKeyMissing,
    ) -> bytes:
        """Return a blob that isn't at the place that its entry led to, from any pack of the environment that has it."""
        self.check_reachable()
        # The pack, or the one that it was moved to, may have been moved since this process asked.
        moved = self.moves.reload().get(entry.pack, ())
        packs = [place.pack, entry.pack, *moved, *self.index.find(self.domain, entry.name)]
        for pack_id in dict.fromkeys(packs):
            other = self.locate(pack_id, entry.name)
            if other is None:
                continue
            error: errors.SnapdError = first
            if other != place:
                try:
                    stored = self.store.get_range(self.home.area.pack(pack_id), other.offset, other.length)
                    return self.decode(kind, other, length, stored)
                except (errors.NotFound, errors.Corrupt, errors.ArchiveKeyMissing) as second:
                    error = second
            if isinstance(error, errors.ArchiveKeyMissing) and not pack.is_damaged(self.store, self.home, pack_id):
                # It is as it was written, by somebody who has a key that we don't have.
                raise error
            # Its own index says that the blob is there, and it isn't.
            self.index.mark(pack_id, index.State.DAMAGED)
        problem = first.problem if isinstance(first, errors.Corrupt) else "it is missing"
        if isinstance(first, errors.ArchiveKeyMissing):
            problem = "the id of its key isn't what was written"
        raise errors.Corrupt(what=f"{pack.label(entry.pack)}, blob {entry.name.hex()}", problem=problem) from first

    def find(self, name: bytes, pinned: set[bytes]) -> pages.Entry | None:
        """Return where a blob is stored, or None. Its pack is pinned and noted in `pinned` unless it is there."""
        with self.pins.lock:
            found = self.index.find(self.domain, name)
            fresh = [pack_id for pack_id in found if pack_id not in pinned]
            self.pins.pin(fresh)
            pinned.update(fresh)
        for pack_id in found:
            entry = self.locate(pack_id, name)
            if entry is not None:
                return entry
        return None

    def locate(self, pack_id: bytes, name: bytes) -> pages.Entry | None:
        """Return where a pack's own index has a blob; None if it hasn't, or if the pack is damaged, which is noted."""
        with self._lock:
            rows = self._rows.get(pack_id)
            if rows is not None:
                self._rows.move_to_end(pack_id)
                return rows.get(name)
        try:
            found = pack.read_index(self.store, self.home, pack_id)
        except (errors.NotFound, errors.Corrupt):
            self.check_reachable()
            self.index.mark(pack_id, index.State.DAMAGED)
            return None
        rows = {row.name: pages.Entry(row.name, pack_id, row.offset, row.stored_length) for row in found.rows}
        with self._lock:
            if pack_id not in self._rows:
                self._rows[pack_id] = rows
                self._row_count += len(rows)
            while self._row_count > _CACHED_ROWS and len(self._rows) > 1:
                self._row_count -= len(self._rows.popitem(last=False)[1])
        return rows.get(name)

    def reconcile(self, view: views.View) -> None:
        """Have the index say what a listing of the store's packs says, but for those that tombstones condemn."""
        area = self.home.area
        stored = index.pack_ids(self.store.list(area.packs))
        if not stored:
            self.check_reachable()
        # After the listing: what is condemned later is forgotten by who condemns it.
        named = tombstones.named(self.store, area, view.tombstones(self.store, area)[0])
        for condemned in tombstones.pack_ids(named):
            stored.pop(condemned, None)
        for moved in self.moves.reload():
            # What it held and nobody needed is in no other pack: a hit there would be lost with it.
            stored.pop(moved, None)
        for pack_id in self.index.reconcile(self.domain, stored):
            known = index.Pack(pack_id, stored[pack_id], index.State.FOUND)
            try:
                rows = pack.read_index(self.store, self.home, pack_id).rows
            except errors.NotFound:
                continue
            except errors.Corrupt:
                known, rows = index.Pack(pack_id, stored[pack_id], index.State.DAMAGED), ()
            with self.pins.lock:
                # A collection that runs beside this may have forgotten it since the listing.
                if not self.pins.is_condemned(pack_id):
                    self.index.add(self.domain, known, (row.name for row in rows))
