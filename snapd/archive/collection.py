"""Collections: deleting the packs of an environment that nothing reaches any more.

step 1    what manifests reach is listed                                   point archive.collect-listed
step 2    what nothing reaches is forgotten by the index                   point archive.collect-forgotten
step 3    it is removed, by tombstones                                     points archive.tombstone-written,
                                                                                  archive.removed
commit    old tombstones go                                                point archive.collect-deleted
undo      nothing: a later collection finds the same

Manifests are listed and read first, all that are believed; what can't be read stops it. Then packs are listed, and
those that neither a manifest's table nor a pin leads to are forgotten by the index and removed. docs/archive-sharing.md
says why that is safe beside recordings, other hosts, and whoever thinks that the prefix is still theirs.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from snapd import errors, fsops
from snapd.archive import blobs, documents, index, manifest, packtable
from snapd.archive.backends import backend
from snapd.archive.fencing import claim as claims
from snapd.archive.fencing import leases, tombstones
from snapd.archive.fencing import view as views


@dataclasses.dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did."""

    packs_deleted: int = 0
    bytes_freed: int = 0
    packs_kept: int = 0
    """Packs that a manifest reaches, or that were pinned."""
    packs_postponed: int = 0
    """Packs that nothing reaches, and that somebody may still be reading, or a late request be about to refer to."""
    packs_moved: int = 0
    """Packs that were emptied into others because little of them was alive."""

    def plus(self, other: "Collected") -> "Collected":
        """Return the sums."""
        return Collected(
            *(ours + theirs for ours, theirs in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Reached:
    """What the believed manifests of an environment refer to."""

    tables: Mapping[str, packtable.PackTable]
    """By the snapshots' uids."""

    def named(self) -> set[bytes]:
        """Return the ids of the packs that any manifest names."""
        return {pack_id for table in self.tables.values() for pack_id in table.references}


def documents_of(environment_blobs: blobs.Blobs, view: views.View) -> Iterator[manifest.Document]:
    """Yield what each believed manifest says. Raises as `reached` does."""
    store, home = environment_blobs.store, environment_blobs.home
    for snapshot_uid, key in view.manifests(store, home.area)[0].items():
        try:
            data = documents.fetch(store, key, manifest.what(snapshot_uid))
        except errors.NotFound:
            # Its snapshot was deleted after the listing.
            continue
        yield manifest.decode(home, snapshot_uid, manifest.epoch_of(key), data)


def readable_documents(environment_blobs: blobs.Blobs, view: views.View) -> tuple[list[manifest.Document], list[str]]:
    """Return what the believed manifests say that can be read, and the snapshots' uids of those that can't.

    Raises errors.ArchiveKeyMissing, errors.ArchiveUnreachable.
    """
    store, home = environment_blobs.store, environment_blobs.home
    found: list[manifest.Document] = []
    damaged: list[str] = []
    for snapshot_uid, key in view.manifests(store, home.area)[0].items():
        try:
            data = documents.fetch(store, key, manifest.what(snapshot_uid))
            found.append(manifest.decode(home, snapshot_uid, manifest.epoch_of(key), data))
        except errors.NotFound:
            # Its snapshot was deleted after the listing.
            continue
        except errors.Corrupt:
            damaged.append(snapshot_uid)
    # An unmounted store shows no manifests either.
    environment_blobs.check_reachable()
    return found, damaged


def reached(environment_blobs: blobs.Blobs, view: views.View) -> Reached:
    """Read all manifests. Raises errors.Corrupt, errors.ArchiveKeyMissing, errors.ArchiveUnreachable."""
    tables = {document.snapshot_uid: document.packs for document in documents_of(environment_blobs, view)}
    # An unmounted store shows no manifests either.
    environment_blobs.check_reachable()
    return Reached(tables)


def collect(
    environment_blobs: blobs.Blobs,
    view: views.View,
    claim: claims.Claim,
    *,
    settled: bool,
    again: Callable[[], None] | None = None,
) -> Collected:
    """Collect one environment. One at a time.

    Unless `settled`, a late request of an earlier process may yet refer to packs, and none is deleted. Packs that
    nothing reaches are left if they are pinned; `again` is called once they aren't any more (see `Pins.when_free`).
    Raises errors.Corrupt, errors.ArchiveKeyMissing, errors.ArchiveClaimLost, errors.ArchiveUnreachable; nothing is
    deleted then that a manifest reaches.
    """
    store, area = environment_blobs.store, environment_blobs.home.area
    with environment_blobs.pins.collecting(), backend.translated("collection"):
        # As the store has it: moves may have been published though the answer, or the process, was lost.
        table = environment_blobs.moves.reload()
        found = reached(environment_blobs, view)
        fsops.point("archive.collect-listed")
        stored = index.pack_ids(store.list(area.packs))
        live = _leading_to(found.named(), table, stored)
        sources = _sources(table)
        unreached = [pack_id for pack_id in stored if pack_id not in live]
        victims = [
            pack_id for pack_id in unreached if settled and forget(environment_blobs, pack_id, sources.get(pack_id, ()))
        ]
        pinned = set(unreached).difference(victims) if settled else ()
        if pinned and again is not None:
            environment_blobs.pins.when_free(environment_blobs.domain, pinned, again)
        fsops.point("archive.collect-forgotten")
        keys = [area.pack(pack_id) for pack_id in victims]
        tombs, late = view.tombstones(store, area)
        keys += view.manifests(store, area)[1] + environment_blobs.moves.superseded() + late
        removed = remove(environment_blobs, claim, keys) if keys else []
        fsops.point("archive.collect-deleted")
        tombstones.clear(store, area, tombs)
    if removed is None:
        return Collected(packs_kept=len(stored) - len(victims), packs_postponed=len(victims))
    gone = tombstones.pack_ids(removed)
    postponed = 0 if settled else len(unreached)
    return Collected(
        packs_deleted=len(gone),
        bytes_freed=sum(stored[pack_id] for pack_id in gone),
        packs_kept=len(stored) - len(victims) - postponed,
        packs_postponed=postponed,
    )


def remove(environment_blobs: blobs.Blobs, claim: claims.Claim, keys: list[str]) -> list[str] | None:
    """Remove objects of an environment, unless another host is reading it: then None."""
    store, area = environment_blobs.store, environment_blobs.home.area
    return tombstones.remove(store, claim, area, keys, lambda: leases.is_read(store, area))


def forget(environment_blobs: blobs.Blobs, pack_id: bytes, sources: Iterable[bytes]) -> bool:
    """Have the index forget a pack unless it, or one that was moved to it, is pinned; True if nobody relies on it."""
    with environment_blobs.pins.lock:
        if any(environment_blobs.pins.is_pinned(relied) for relied in (pack_id, *sources)):
            return False
        environment_blobs.index.forget(pack_id)
        environment_blobs.pins.condemn(pack_id)
        return True


def _leading_to(
    named: Iterable[bytes], table: Mapping[bytes, tuple[bytes, ...]], stored: Collection[bytes]
) -> set[bytes]:
    """Return the packs that hold what is named: where a moved one led to, and itself unless all of that is stored."""
    live: set[bytes] = set()
    for pack_id in named:
        places = table.get(pack_id, ())
        live.update(places)
        if not places or any(place not in stored for place in places):
            live.add(pack_id)
    return live


def _sources(table: Mapping[bytes, tuple[bytes, ...]]) -> dict[bytes, list[bytes]]:
    """Return by target the packs that were moved there."""
    sources: dict[bytes, list[bytes]] = {}
    for pack_id, targets in table.items():
        for target in targets:
            sources.setdefault(target, []).append(pack_id)
    return sources


def usage(found: Reached) -> dict[str, tuple[int, int]]:
    """Return for each snapshot the bytes of the packs that only it names, and of those that others name too.

    The first is what deleting it frees at once; repacking may free more later.
    """
    counts: dict[bytes, int] = {}
    for table in found.tables.values():
        for pack_id in table.references:
            counts[pack_id] = counts.get(pack_id, 0) + 1
    result: dict[str, tuple[int, int]] = {}
    for snapshot_uid, table in found.tables.items():
        exclusive = sum(table.sizes[pack_id] for pack_id in table.references if counts[pack_id] == 1)
        shared = sum(table.sizes[pack_id] for pack_id in table.references) - exclusive
        result[snapshot_uid] = (exclusive, shared)
    return result
