"""What keeps this host's part of an archive small and sound: collections, repacking, scrubs; and what it takes up."""

import datetime
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

from snapd import errors
from snapd.archive import access as accesses
from snapd.archive import blobs, collection, documents, index, manifest, repacking
from snapd.archive import scrub as scrubs
from snapd.archive.backends import backend


class Upkeep:
    """The upkeep of this host's environments. Thread-safe; collections and repacking take turns."""

    def __init__(self, access: accesses.Access, executor: futures.Executor) -> None:
        """Prove packs on executor."""
        self._access = access
        self._executor = executor
        self._lock = threading.Lock()

    def collect(
        self, environment_uid: str | None = None, again: Callable[[], None] | None = None
    ) -> collection.Collected:
        """Delete the packs that no manifest reaches and nobody relies on, of one environment or of all.

        `again` is called once nobody relies any more on those that no manifest reaches and that were left for that; it
        must return at once.

        Raises errors.Corrupt for an environment with a manifest that can't be read, after the others were collected;
        errors.ArchiveClaimed, errors.ArchiveClaimLost, errors.ArchiveUnreachable.
        """
        connected = self._access.connect()
        return self._each_environment(
            environment_uid,
            lambda found: collection.collect(
                found, connected.view, connected.claim, settled=connected.settled, again=again
            ),
        )

    def repack(self, environment_uid: str | None = None) -> collection.Collected:
        """Empty packs of which little is alive into others, of one environment or of all. Raises as `collect` does."""
        connected = self._access.connect()
        if not connected.settled:
            return collection.Collected()
        block_size = connected.settings.block_size

        def work(found: blobs.Blobs) -> collection.Collected:
            self._access.reconcile(found)
            return repacking.repack(found, connected.view, connected.claim, self._executor, block_size)

        return self._each_environment(environment_uid, work)

    def sparse_bytes(self, environment_uid: str) -> tuple[int, int]:
        """Return about how many bytes of an environment's packs repacking might free, and how many the packs have.

        It costs reading the manifests. Raises as `collect` does.
        """
        found = self._found(environment_uid)
        if found is None:
            return 0, 0
        self._access.reconcile(found)
        packs = found.index.packs(found.domain)
        sparse = repacking.sparse_bytes(self._reached(found), found.moves.table(), packs)
        return sparse, sum(one.size_bytes for one in packs.values())

    def scrub(
        self,
        environment_uid: str,
        due_before: datetime.datetime,
        check: Callable[[], None],
        store: backend.Backend | None = None,
    ) -> Iterator[scrubs.Scrubbed]:
        """Read and check an environment's packs that weren't since `due_before`, the one checked longest ago first.

        `store` is another, perhaps slower, way to the same store; `check` is called between packs and may raise.
        Raises errors.ArchiveKeyMissing, errors.ArchiveUnreachable.
        """
        yield from self.check(environment_uid, scrubs.due(self.packs(environment_uid), due_before), check, store)

    def packs(self, environment_uid: str) -> list[index.Pack]:
        """Return the packs of an environment. Raises errors.ArchiveUnreachable, errors.ArchiveKeyMissing."""
        found = self._found(environment_uid)
        if found is None:
            return []
        self._access.reconcile(found)
        return list(found.index.packs(found.domain).values())

    def packs_of(self, environment_uid: str, snapshot_uid: str) -> list[index.Pack]:
        """Return the packs of a snapshot that there are, in the order in which they are to be checked.

        Raises errors.NotFound, errors.Corrupt, errors.ArchiveUnreachable, errors.ArchiveKeyMissing.
        """
        found = self._found(environment_uid)
        key = None
        if found is not None:
            self._access.reconcile(found)
            key = self._access.manifest_key(self._access.view(self._access.host), found.home.area, snapshot_uid)
        if found is None or key is None:
            raise errors.NotFound(resource_type="archived snapshot", name=snapshot_uid)
        document = _decoded(found, snapshot_uid, key)
        places = scrubs.places_of(found, document.packs)
        return scrubs.oldest_first(one for one in self.packs(environment_uid) if one.pack_id in places)

    def check(
        self,
        environment_uid: str,
        packs: Sequence[index.Pack],
        check: Callable[[], None],
        store: backend.Backend | None = None,
    ) -> Iterator[scrubs.Scrubbed]:
        """Read and check some packs of an environment; what else as `scrub`."""
        found = self._found(environment_uid)
        if found is not None:
            yield from scrubs.scrub(found, store or self._access.store, packs, check)

    def oldest_checks(self, environment_uid: str) -> dict[str, datetime.datetime | None]:
        """Return for each archived snapshot when the part of it that was checked longest ago was, if that is known.

        Those whose manifests can't be read are left out.
        """
        found = self._found(environment_uid)
        if found is None:
            return {}
        readable, _ = collection.readable_documents(found, self._access.view(self._access.host))
        tables = {document.snapshot_uid: document.packs for document in readable}
        return scrubs.oldest_checks(found, collection.Reached(tables))

    def damage(self, environment_uid: str) -> list[scrubs.Damage]:
        """Return which archived snapshots can't be read whole, and which ranges of them, by what is known of packs."""
        found = self._found(environment_uid)
        if found is None:
            return []
        self._access.reconcile(found)
        readable, unreadable = collection.readable_documents(found, self._access.view(self._access.host))
        suspects = scrubs.suspects(found, {pack_id for document in readable for pack_id in document.packs.references})
        hit = [document for document in readable if suspects & document.packs.references.keys()]
        damages = [scrubs.damage(manifest.Manifest(found, document), suspects) for document in hit]
        lost = [scrubs.Damage(snapshot_uid, scrubs.ALL) for snapshot_uid in unreadable]
        return [damage for damage in damages if damage.ranges] + lost

    def damage_of(self, environment_uid: str, snapshot_uid: str, host: str | None = None) -> scrubs.Damage:
        """Return which ranges of a snapshot, of any host, can't be read, by what is known of its packs and their sizes.

        Raises errors.ArchiveUnreachable, errors.ArchiveKeyMissing, errors.NotFound.
        """
        area, view = self._access.believed(environment_uid, host)
        key = self._access.manifest_key(view, area, snapshot_uid)
        if key is None:
            raise errors.NotFound(resource_type="archived snapshot", name=snapshot_uid)
        try:
            found = self._access.opened(area, view)
            document = _decoded(found, snapshot_uid, key)
        except errors.Corrupt:
            return scrubs.Damage(snapshot_uid, scrubs.ALL)
        return scrubs.damage(manifest.Manifest(found, document), scrubs.missing(found, document.packs))

    def usage(self, environment_uid: str) -> dict[str, tuple[int, int]]:
        """Return for each snapshot the bytes of packs that only it names, and of those that others name too.

        The first is what deleting it frees at once; repacking may free more later.
        """
        found = self._found(environment_uid)
        return {} if found is None else collection.usage(self._reached(found))

    def _found(self, environment_uid: str) -> blobs.Blobs | None:
        """Return an environment, or None if it was never begun, or has just been deleted: then it has no record."""
        try:
            return self._access.opened(*self._access.believed(environment_uid, None))
        except errors.NotFound:
            self._access.check_reachable()
            return None

    def _environments(self) -> list[str]:
        found = self._access.view(self._access.host).environments(self._access.store)
        if not found:
            self._access.check_reachable()
        return found

    def _reached(self, found: blobs.Blobs) -> collection.Reached:
        return collection.reached(found, self._access.view(self._access.host))

    def _each_environment(
        self, environment_uid: str | None, work: Callable[[blobs.Blobs], collection.Collected]
    ) -> collection.Collected:
        total = collection.Collected()
        failure: errors.Corrupt | None = None
        with self._lock:
            for uid in self._environments() if environment_uid is None else [environment_uid]:
                try:
                    found = self._found(uid)
                    if found is not None:
                        total = total.plus(work(found))
                except errors.Corrupt as error:
                    failure = failure or error
        if failure is not None:
            raise failure
        return total


def _decoded(found: blobs.Blobs, snapshot_uid: str, key: str) -> manifest.Document:
    """Return what a manifest says. Raises errors.NotFound, errors.Corrupt, errors.ArchiveKeyMissing."""
    data = documents.fetch(found.store, key, manifest.what(snapshot_uid))
    return manifest.decode(found.home, snapshot_uid, manifest.epoch_of(key), data)
