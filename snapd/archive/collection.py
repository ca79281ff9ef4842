"""Collections: deleting the packs that no manifest of an environment reaches.

Manifests are listed and read first, all of them; what can't be read stops it. Then packs are listed, and those that
neither a manifest's table nor a pin names are forgotten by the index and deleted. docs/archive-format.md, "How it
stays true", says why that is safe beside recordings.
"""

import dataclasses

from snapd import errors, fsops
from snapd.archive import blobs, documents, index, manifest
from snapd.archive.backends import backend


@dataclasses.dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did."""

    packs_deleted: int = 0
    bytes_freed: int = 0
    packs_kept: int = 0
    """Packs that a manifest reaches, or that were pinned."""

    def plus(self, other: "Collected") -> "Collected":
        """Return the sums."""
        return Collected(
            self.packs_deleted + other.packs_deleted,
            self.bytes_freed + other.bytes_freed,
            self.packs_kept + other.packs_kept,
        )


def collect(environment_blobs: blobs.Blobs) -> Collected:
    """Collect one environment. One at a time. Raises errors.Corrupt, errors.ArchiveUnreachable; nothing is deleted then
    that a manifest reaches.
    """
    store, area = environment_blobs.store, environment_blobs.home.area
    deleted = freed = kept = 0
    with environment_blobs.pins.collecting(), backend.translated("collection"):
        live = _reached(environment_blobs)
        fsops.point("archive.collect-listed")
        for pack_id, size_bytes in index.pack_ids(store.list(area.packs)).items():
            if pack_id in live or not _forget(environment_blobs, pack_id):
                kept += 1
                continue
            fsops.point("archive.collect-forgotten")
            if store.delete(area.pack(pack_id)):
                deleted += 1
                freed += size_bytes
            fsops.point("archive.collect-deleted")
    return Collected(deleted, freed, kept)


def _reached(environment_blobs: blobs.Blobs) -> set[bytes]:
    """Return the ids of the packs that any manifest names."""
    store, home = environment_blobs.store, environment_blobs.home
    live: set[bytes] = set()
    for key, _ in store.list(home.area.manifests):
        snapshot_uid = key.removeprefix(home.area.manifests)
        try:
            data = documents.fetch(store, key, manifest.what(snapshot_uid))
        except errors.NotFound:
            # Its snapshot was deleted after the listing.
            continue
        live.update(manifest.decode(home, snapshot_uid, data).packs.references)
    # An unmounted store shows no manifests either.
    environment_blobs.check_reachable()
    return live


def _forget(environment_blobs: blobs.Blobs, pack_id: bytes) -> bool:
    """Have the index forget a pack unless it is pinned; True if it may be deleted."""
    with environment_blobs.pins.lock:
        if environment_blobs.pins.is_pinned(pack_id):
            return False
        environment_blobs.index.forget(pack_id)
        return True
