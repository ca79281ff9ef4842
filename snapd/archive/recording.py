"""One snapshot on its way into the archive: blocks in, a manifest out.

Owns the order of things. Until the manifest is published nothing refers to what a recording stored; what it stored in
full packs is found again by the next one.

step 1    blobs, then pages, into packs that are published and proven      points archive.pack-finished,
                                                                                  archive.before-proof
step 2    packs of others that it relies on are proven                     points archive.after-proof,
                                                                                  archive.before-manifest
commit    the manifest                                                     point archive.after-manifest
undo      nothing: packs that nothing needs are garbage
"""

import dataclasses
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from typing import Final

import numpy as np

from snapd import blockmap, errors, fsops
from snapd.archive import blobs, deposit, documents, index, manifest, names, pack, packtable, pages, tree
from snapd.archive.backends import backend
from snapd.archive.fencing import claim as claims

_FIRST_WORDS: Final = 256
"""So few that numpy keeps the lock of the interpreter meanwhile: handing it over takes longer."""

_FEW_PACKS: Final = 256
"""Up to here inherited packs are asked for one by one; beyond, a listing is cheaper."""


class Recording:
    """A snapshot that is being recorded. `put` and `put_zeroes` may be called by many threads, the rest by one.

    As a context manager it aborts unless it was committed.
    """

    def __init__(
        self,
        environment_blobs: blobs.Blobs,
        claim: claims.Claim,
        executor: futures.Executor,
        document: manifest.Document,
        scratch: pathlib.Path,
        on_end: Callable[[], None],
    ) -> None:
        """Record a disk as `document` describes it: its uid and sizes. on_end is called once, after commit or abort."""
        self._blobs = environment_blobs
        self._claim = claim
        self._document = document
        largest = max(document.block_size, pages.PAGE_SIZE)
        self._deposit = deposit.Deposit(environment_blobs, executor, largest, claim.epoch)
        self._scratch = tree.Scratch(scratch)
        self._tree = tree.Tree(document.blocks, self._read_page, self._scratch)
        self._inherited: dict[bytes, int] = {}
        self._on_end = on_end
        self._ended = False
        self._lock = threading.Lock()
        self._statistics = manifest.Statistics()

    def inherit(self, base: manifest.Manifest) -> None:
        """Begin with what a base holds. The caller has pinned its packs and gives them back when the recording ends.

        Raises errors.Corrupt, errors.ArchiveUnreachable.
        """
        if base.block_size != self._document.block_size:
            raise errors.InvalidField(field="base_snapshot_uid", problem="its blocks are of another size")
        table = base.document.packs
        self._inherited = table.sizes
        self._tree.inherit(base.document.root, base.blocks, table.references)
        self._adjust_last_block(base)

    def _adjust_last_block(self, base: manifest.Manifest) -> None:
        """Cut or lengthen the block in which the smaller of base and disk ends: the base's has another length."""
        last = min(base.blocks, self._document.blocks) - 1
        if last < 0:
            return
        length = self._length(last)
        if base.block_length(last) != length:
            data = base.read(last)[:length]
            self.put(last, data + bytes(length - len(data)))
            self._statistics = manifest.Statistics()

    @property
    def statistics(self) -> manifest.Statistics:
        """What was done so far. Can be read at any time."""
        return self._statistics

    def put(self, number: int, data: backend.Bytes) -> None:
        """Have block `number` hold data: block_size bytes, fewer only if the disk ends in it. Reusable on return.

        Raises errors.OutOfRange, errors.InvalidField, errors.ArchiveUnreachable, errors.StorageFull, errors.Corrupt.
        """
        view = memoryview(data).cast("B")
        if not 0 <= number < self._document.blocks:
            raise self._beyond_end(number)
        if len(view) != self._length(number):
            raise errors.InvalidField(field="data", problem=f"block {number} has {self._length(number)} bytes")
        if _is_zero(view):
            entry, stored, zero = pages.NOTHING, 0, 1
        else:
            (entry, stored), zero = self._deposit.put(names.Kind.BLOCK, view), 0
        with self._lock, self._poisoning():
            self._tree.replace(number, entry)
            done = self._statistics
            self._statistics = manifest.Statistics(
                blocks=done.blocks + 1,
                bytes_read=done.bytes_read + len(view),
                zero_blocks=done.zero_blocks + zero,
                deduplicated_blocks=done.deduplicated_blocks + (not zero and not stored),
                new_blocks=done.new_blocks + (stored > 0),
                bytes_stored=done.bytes_stored + stored,
            )

    def put_zeroes(self, numbers: blockmap.Int64Array) -> None:
        """Have blocks read as zeros. Raises errors.OutOfRange, errors.ArchiveUnreachable, errors.Corrupt."""
        numbers = np.unique(numbers)
        if len(numbers) == 0:
            return
        if numbers[0] < 0 or numbers[-1] >= self._document.blocks:
            raise self._beyond_end(int(numbers[-1]))
        with self._lock, self._poisoning():
            self._tree.clear(numbers)
            done = self._statistics
            self._statistics = dataclasses.replace(
                done, blocks=done.blocks + len(numbers), zero_blocks=done.zero_blocks + len(numbers)
            )

    def commit(self, metadata: Mapping[str, documents.Json]) -> manifest.Statistics:
        """Store the pages, prove everything and publish the manifest. The recording has ended then, even if it fails.

        Raises errors.AlreadyExists if the snapshot has a manifest; errors.Corrupt if something isn't proven (after
        one on a base, a recording without base stores it anew); errors.ArchiveUnreachable, errors.StorageFull;
        errors.ArchiveClaimLost if another daemon has taken over, which then may or may not have the snapshot.
        """
        try:
            with backend.translated("recording"):
                root = self._tree.write(self._store_page)
                self._deposit.flush()
                fsops.point("archive.before-proof")
                packs = self._prove()
                fsops.point("archive.after-proof")
                document = dataclasses.replace(
                    self._document, root=root, packs=packs, statistics=self._statistics, metadata=metadata
                )
                fsops.point("archive.before-manifest")
                self._publish(document)
                fsops.point("archive.after-manifest")
                # Published under a claim that is over, it is believed by nobody: so it must not be by us.
                self._claim.require()
        finally:
            self.abort()
        return self._statistics

    def abort(self) -> None:
        """End without a manifest. May be repeated.

        Full packs stay until a collection, so that the next recording finds their blobs.
        """
        if self._ended:
            return
        self._ended = True
        try:
            self._deposit.discard()
        finally:
            self._scratch.close()
            self._blobs.pins.unpin(self._deposit.pinned)
            self._on_end()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *exception: object) -> None:
        self.abort()

    @contextmanager
    def _poisoning(self) -> Iterator[None]:
        """Keep a recording from being committed after a change that failed, whatever its caller makes of the error."""
        try:
            yield
        except errors.SnapdError as error:
            self._deposit.fail(error)
            raise

    # --- pages ---

    def _read_page(self, entry: pages.Entry) -> bytes:
        return self._blobs.read(names.Kind.PAGE, entry, pages.PAGE_SIZE)

    def _store_page(self, page: bytes) -> pages.Entry:
        entry, stored = self._deposit.put(names.Kind.PAGE, page)
        with self._lock:
            done = self._statistics
            self._statistics = dataclasses.replace(done, bytes_stored=done.bytes_stored + stored)
        return entry

    # --- the end ---

    def _prove(self) -> packtable.PackTable:
        """Return the table of the packs that the tree refers to, each of which is there and proven."""
        self._deposit.prove_hits(trusted=self._inherited)
        references = self._tree.references
        sizes = {pack_id: self._deposit.sealed[pack_id] for pack_id in references.keys() & self._deposit.sealed.keys()}
        # By the packs that hold what is needed now: those that were moved, and where they went.
        elsewhere = {
            pack_id: self._blobs.moves.targets(pack_id) or (pack_id,) for pack_id in references.keys() - sizes.keys()
        }
        # Those that were sealed now, too: they were read back, but maybe from what lies where the store isn't mounted.
        stored = self._stored_sizes([*sizes, *{place for places in elsewhere.values() for place in places}])
        if any(stored.get(pack_id) != size_bytes for pack_id, size_bytes in sizes.items()):
            self._blobs.check_reachable()
            raise errors.ArchiveUnreachable(problem="packs that have just been stored are gone")
        damaged = self._blobs.index.damaged(self._blobs.domain)
        for pack_id, places in elsewhere.items():
            for place in places:
                expected = self._inherited.get(place, stored.get(place))
                if place in damaged or stored.get(place) is None or stored[place] != expected:
                    self._blobs.check_reachable()
                    self._blobs.index.mark(place, index.State.DAMAGED)
                    raise errors.Corrupt(
                        what=pack.label(place), problem="it is missing, cut short or known to be damaged"
                    )
            sizes[pack_id] = self._inherited.get(pack_id) or stored[pack_id]
        return packtable.PackTable(references, sizes)

    def _stored_sizes(self, pack_ids: list[bytes]) -> dict[bytes, int]:
        """Return the lengths that the store states for packs; those that it lacks are left out."""
        store, area = self._blobs.store, self._blobs.home.area
        if len(pack_ids) > _FEW_PACKS:
            return index.pack_ids(store.list(area.packs))
        sizes = ((pack_id, store.size(area.pack(pack_id))) for pack_id in pack_ids)
        return {pack_id: size_bytes for pack_id, size_bytes in sizes if size_bytes is not None}

    def _publish(self, document: manifest.Document) -> None:
        """Create the manifest and read it back."""
        store, home = self._blobs.store, self._blobs.home
        key = home.area.manifest(document.snapshot_uid, document.epoch)
        data = manifest.encode(home, document)
        try:
            store.put(key, [data])
        except errors.AlreadyExists as error:
            raise errors.AlreadyExists(resource_type="manifest", name=document.snapshot_uid) from error
        try:
            store.drop_cache(key)
            same = store.get(key) == data
        except errors.NotFound:
            same = False
        if not same:
            # An owner after us has cleared it away, perhaps; that is no damage.
            self._claim.require()
            store.delete(key)
            raise errors.Corrupt(what=manifest.what(document.snapshot_uid), problem="it reads back differently")

    def _length(self, number: int) -> int:
        return pages.block_length(number, self._document.size_bytes, self._document.block_size)

    def _beyond_end(self, number: int) -> errors.OutOfRange:
        return errors.OutOfRange(
            name=self._document.snapshot_uid,
            offset=number * self._document.block_size,
            length=self._document.block_size,
            size_bytes=self._document.size_bytes,
        )


def _is_zero(view: memoryview) -> bool:
    """True if there are only zeros, by words where the length allows (30 GB/s).

    Most blocks that hold something hold it at once: those are told by their first few words.
    """
    words = np.frombuffer(view, np.uint8 if len(view) % 8 else np.uint64)
    return not words[:_FIRST_WORDS].any() and not words.any()
