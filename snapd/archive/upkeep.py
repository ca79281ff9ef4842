"""What keeps this host's part of an archive small and sound: collections, repacking, scrubs; and what it takes up."""

import datetime
import threading
from collections.abc import Callable, Iterator
from concurrent import futures

from snapd import errors
from snapd.archive import access as accesses
from snapd.archive import blobs, collection, manifest, repacking
from snapd.archive import scrub as scrubs
from snapd.archive.backends import backend


class Upkeep:
    """The upkeep of this host's environments. Thread-safe; collections and repacking take turns."""

    def __init__(self, access: accesses.Access, executor: futures.Executor) -> None:
        """Prove packs on executor."""
        self._access = access
        self._executor = executor
        self._lock = threading.Lock()

    def collect(self, environment_uid: str | None = None) -> collection.Collected:
        """Delete the packs that no manifest reaches and no recording relies on, of one environment or of all.

        Raises errors.Corrupt for an environment with a manifest that can't be read, after the others were collected;
        errors.ArchiveClaimed, errors.ArchiveClaimLost, errors.ArchiveUnreachable.
        """
        connected = self._access.connect()
        return self._each_environment(
            environment_uid,
            lambda found: collection.collect(found, connected.view, connected.claim, settled=connected.settled),
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
        found = self._found(environment_uid)
        if found is not None:
            self._access.reconcile(found)
            yield from scrubs.scrub(found, store or self._access.store, due_before, check)

    def oldest_checks(self, environment_uid: str) -> dict[str, datetime.datetime | None]:
        """Return for each archived snapshot when the part of it that was checked longest ago was, if that is known."""
        found = self._found(environment_uid)
        return {} if found is None else scrubs.oldest_checks(found, self._reached(found))

    def damage(self, environment_uid: str) -> list[scrubs.Damage]:
        """Return which archived snapshots can't be read whole, and which ranges of them, by what is known of packs."""
        found = self._found(environment_uid)
        if found is None:
            return []
        self._access.reconcile(found)
        documents = list(collection.documents_of(found, self._access.view(self._access.host)))
        suspects = scrubs.suspects(found, {pack_id for document in documents for pack_id in document.packs.references})
        hit = [document for document in documents if suspects & document.packs.references.keys()]
        damages = [scrubs.damage(manifest.Manifest(found, document), suspects) for document in hit]
        return [damage for damage in damages if damage.ranges]

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
