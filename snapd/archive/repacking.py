"""Repacking: emptying packs of which little is alive into others (docs/archive-sharing.md, "Repacking").

step 1    what manifests reach is listed                                   point archive.repack-listed
step 2    sparse packs are forgotten by the index                          point archive.repack-forgotten
step 3    what is alive in them is put into other packs, proven            point archive.pack-finished
commit    moves that lead from the old packs to the new ones               point archive.moves-published
step 4    the old packs are removed, by tombstones                         points archive.tombstone-written,
                                                                                  archive.repack-removed
undo      nothing: packs that nothing needs are garbage

It costs a walk over all pages of the environment, so it looks first at an estimate from the manifests' pack tables, and
walks only if that finds packs to be sparse.
"""

import collections
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Final

from snapd import errors, fsops
from snapd.archive import blobs, collection, deposit, index, names, pack, pages, walk
from snapd.archive import moves as moving
from snapd.archive.backends import backend
from snapd.archive.fencing import claim as claims
from snapd.archive.fencing import view as views

SPARSE: Final = 0.5
"""A pack is moved if less than this part of its bytes is alive."""

_CANDIDATE: Final = 0.75
"""Packs are looked at closely if the estimate says that less than this part of their blobs is alive."""

_MOST_PACKS: Final = 128
"""Looked at in one run: 4 GiB to read at most, and some 40,000 names to remember."""


def estimate(found: collection.Reached, table: moving.Table, packs: Mapping[bytes, index.Pack]) -> dict[bytes, float]:
    """Return for each pack in use which part of its blobs is alive at most, as far as the manifests' tables tell.

    A blob that two snapshots share is counted by both, so only the largest count of a single snapshot is sure; what
    others have besides is not seen, and the walk finds it.
    """
    most: collections.Counter[bytes] = collections.Counter()
    for snapshot in found.tables.values():
        counts: collections.Counter[bytes] = collections.Counter()
        for pack_id, references in snapshot.references.items():
            places = table.get(pack_id, (pack_id,))
            for place in places:
                counts[place] += -(-references // len(places))
        for pack_id, count in counts.items():
            most[pack_id] = max(most[pack_id], count)
    # Of a pack whose index can't be read it isn't known how many blobs it has.
    counted = {pack_id: one.blobs for pack_id, one in packs.items() if one.blobs}
    return {pack_id: min(1.0, count / counted[pack_id]) for pack_id, count in most.items() if pack_id in counted}


def sparse_bytes(found: collection.Reached, table: moving.Table, packs: Mapping[bytes, index.Pack]) -> int:
    """Return about how many bytes repacking would free, by the estimate: at most, since it sees each snapshot alone."""
    alive = estimate(found, table, packs)
    sparse = {pack_id: part for pack_id, part in alive.items() if part < SPARSE}
    return sum(int(packs[pack_id].size_bytes * (1 - part)) for pack_id, part in sparse.items())


def repack(
    environment_blobs: blobs.Blobs,
    view: views.View,
    claim: claims.Claim,
    executor: futures.Executor,
    block_size: int,
) -> collection.Collected:
    """Move what is alive out of sparse packs of one environment and remove them. One at a time, not beside `collect`.

    Raises errors.Corrupt, errors.ArchiveKeyMissing, errors.ArchiveClaimLost, errors.ArchiveUnreachable,
    errors.StorageFull.
    """
    area = environment_blobs.home.area
    with environment_blobs.pins.collecting(), backend.translated("repacking"):
        table = environment_blobs.moves.reload()
        found = collection.reached(environment_blobs, view)
        fsops.point("archive.repack-listed")
        known = environment_blobs.index.packs(environment_blobs.domain)
        alive = estimate(found, table, known)
        ordered = sorted((part, pack_id) for pack_id, part in alive.items() if part < _CANDIDATE)
        candidates = [
            pack_id for _, pack_id in ordered[:_MOST_PACKS] if known[pack_id].state is not index.State.DAMAGED
        ]
        rows = _sparse(environment_blobs, view, table, candidates)
        moved = _move(environment_blobs, claim, executor, block_size, rows)
        if not moved:
            return collection.Collected()
        still_named = found.named() | environment_blobs.pins.pinned()
        claim.require()
        environment_blobs.moves.publish(moving.joined(table, moved, still_named), claim.epoch)
        fsops.point("archive.moves-published")
        # What nothing named any more when it was joined needs no move to be found; all of it can go.
        removed = collection.remove(environment_blobs, claim, [area.pack(pack_id) for pack_id in moved])
        fsops.point("archive.repack-removed")
    if removed is None:
        return collection.Collected(packs_moved=len(moved), packs_postponed=len(moved))
    freed = sum(known[pack_id].size_bytes for pack_id in moved)
    return collection.Collected(packs_moved=len(moved), packs_deleted=len(removed), bytes_freed=freed)


def _sparse(
    environment_blobs: blobs.Blobs, view: views.View, table: moving.Table, candidates: Sequence[bytes]
) -> dict[bytes, list[pack.Row]]:
    """Return the rows that are alive of those candidates of which less than SPARSE is."""
    sources = {old for old, targets in table.items() if any(target in candidates for target in targets)}
    documents = collection.documents_of(environment_blobs, view)
    roots = ((document.root, pages.depth_for(document.blocks)) for document in documents)
    alive = walk.live_names(environment_blobs, roots, {*candidates, *sources})
    rows: dict[bytes, list[pack.Row]] = {}
    for pack_id in candidates:
        wanted = set(alive[pack_id]).union(*(alive[old] for old in sources if pack_id in table[old]))
        try:
            whole = pack.read_index(environment_blobs.store, environment_blobs.home, pack_id)
        except (errors.NotFound, errors.Corrupt):
            environment_blobs.check_reachable()
            environment_blobs.index.mark(pack_id, index.State.DAMAGED)
            continue
        living = [row for row in whole.rows if row.name in wanted]
        if sum(row.stored_length for row in living) < SPARSE * sum(row.stored_length for row in whole.rows):
            rows[pack_id] = living
    return rows


def _move(
    environment_blobs: blobs.Blobs,
    claim: claims.Claim,
    executor: futures.Executor,
    block_size: int,
    rows: Mapping[bytes, Sequence[pack.Row]],
) -> dict[bytes, tuple[bytes, ...]]:
    """Put what is alive of some packs elsewhere, proven, and return where; what can't be read whole stays."""
    store, home = environment_blobs.store, environment_blobs.home
    moved: dict[bytes, tuple[bytes, ...]] = {}
    sources: dict[bytes, list[bytes]] = {}
    for old, targets in environment_blobs.moves.table().items():
        for target in targets:
            sources.setdefault(target, []).append(old)
    put = deposit.Deposit(environment_blobs, executor, max(block_size, pages.PAGE_SIZE), claim.epoch)
    try:
        for pack_id, living in rows.items():
            if not collection.forget(environment_blobs, pack_id, sources.get(pack_id, ())):
                continue
            fsops.point("archive.repack-forgotten")
            try:
                places = [
                    _put(environment_blobs, put, pack_id, row, stored)
                    for row, stored in pack.read_rows(store, home, pack_id, living)
                ]
            except (errors.Corrupt, errors.NotFound):
                # It stays as it is, and what refers to it shows damage when it is read.
                environment_blobs.check_reachable()
                damaged = index.Pack(pack_id, store.size(home.area.pack(pack_id)) or 0, index.State.DAMAGED)
                environment_blobs.index.add(environment_blobs.domain, damaged, ())
                continue
            if places:
                moved[pack_id] = tuple(dict.fromkeys(places))
        put.flush()
        put.prove_hits(trusted=())
        return moved
    finally:
        put.discard()
        environment_blobs.pins.unpin(put.pinned)


def _put(
    environment_blobs: blobs.Blobs, put: deposit.Deposit, pack_id: bytes, row: pack.Row, stored: memoryview
) -> bytes:
    """Store one blob again, if it isn't elsewhere, and return the pack that has it."""
    kind = names.Kind(row.kind)
    entry = pages.Entry(row.name, pack_id, row.offset, row.stored_length)
    data = pack.decode_blob(environment_blobs.home, environment_blobs.codec, kind, entry, row.length, stored)
    return put.put(kind, data)[0].pack
