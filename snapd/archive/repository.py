"""The archive as one host uses it: recordings into its own prefix, manifests out of any, deletions of its own.

One process owns a host's prefix (`fencing`); any number of threads use the repository.
"""

import datetime
import itertools
import pathlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Final

from snapd import errors, units
from snapd.archive import access as accesses
from snapd.archive import documents, index, layout, manifest, packtable, pages, recording, sealing, session, upkeep
from snapd.archive.backends import backend
from snapd.archive.fencing import claim as claims
from snapd.archive.fencing import leases, tombstones
from snapd.archive.fencing import view as views

_SEALING_THREADS: Final = 2


def _utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Repository:
    """An archive. Thread-safe.

    All methods that look into the store raise errors.ArchiveUnreachable when it doesn't answer; those that change
    anything also what `connect` raises, and errors.ArchiveClaimLost once another daemon has taken over.
    """

    def __init__(
        self,
        store: backend.Backend,
        index_path: pathlib.Path,
        host: str,
        *,
        block_size: int = 256 * units.KIB,
        level: int = 1,
        keyring: sealing.Keyring | None = None,
        now: Callable[[], datetime.datetime] = _utc,
    ) -> None:
        """Use the archive in a store. A new one gets `block_size` (bytes), and is encrypted if there is a keyring.

        The index at index_path is made anew if it is missing or another archive's; the claim is kept beside it. `level`
        is zstd's; `now` tells when packs were checked. Raises errors.InvalidField, errors.StorageFailed.
        """
        if block_size not in _block_sizes():
            raise errors.InvalidField(field="block_size", problem=f"{block_size} is none of {_block_sizes()}")
        self._access = accesses.Access(
            store, index_path, host, block_size=block_size, level=level, keyring=keyring, now=now
        )
        self._store = self._access.store
        self._executor = futures.ThreadPoolExecutor(_SEALING_THREADS, thread_name_prefix="archive-seal")
        self.upkeep = upkeep.Upkeep(self._access, self._executor)
        self._recordings: dict[str, int] = {}
        self._numbers = itertools.count()
        self._environments_lock = threading.RLock()

    @classmethod
    def open(
        cls,
        store: backend.Backend,
        index_path: pathlib.Path,
        host: str,
        *,
        block_size: int = 256 * units.KIB,
        level: int = 1,
        keyring: sealing.Keyring | None = None,
        adopt: bool = False,
    ) -> "Repository":
        """Return a repository that is connected. Raises as the constructor and `connect` do."""
        repository = cls(store, index_path, host, block_size=block_size, level=level, keyring=keyring)
        try:
            repository.connect(adopt=adopt)
        except BaseException:
            repository.close()
            raise
        return repository

    def connect(self, *, adopt: bool = False) -> session.Session:
        """Have the claim that writing needs. Whatever needs it calls this; who adopts another's calls it first.

        Raises errors.ArchiveUnreachable, also if the index knows an archive and the store is empty: then it isn't
        mounted; errors.ArchiveClaimed, errors.ArchiveKeyMissing, errors.ArchiveNotEncrypted, errors.Corrupt,
        errors.SchemaTooNew.
        """
        return self._access.connect(adopt=adopt)

    def close(self) -> None:
        """Wait for what is being sealed, let go of the claim and close the index."""
        self._executor.shutdown()
        self._access.close()

    @property
    def block_size(self) -> int:
        """Bytes of guest data in a block."""
        return self.connect().settings.block_size

    @property
    def store(self) -> backend.Backend:
        """The archive's store, for whoever reads it in another way or at another pace."""
        return self._store

    @property
    def trouble(self) -> errors.SnapdError | None:
        """What keeps this host from using the archive, by what the last calls met; costs nothing to ask."""
        return self._access.trouble

    @property
    def unreachable(self) -> errors.SnapdError | None:
        """What keeps this host from reading the archive, by what the last calls met; costs nothing to ask."""
        return self._access.unreachable

    def require_usable(self) -> None:
        """Ask the store, and raise what keeps this host from using the archive: what `connect` raises, or its loss."""
        self.connect()
        self._access.check(self._access.host)

    # --- recording ---

    def begin(
        self, environment_uid: str, snapshot_uid: str, size_bytes: int, base_snapshot_uid: str | None = None
    ) -> recording.Recording:
        """Begin to record a snapshot of a disk. Blocks that aren't put are those of the base, or zeros.

        Raises errors.AlreadyExists if the snapshot has a manifest, errors.NotFound if the base has none,
        errors.InvalidField, errors.Corrupt (of a base, or of the environment's record).
        """
        if not 0 <= size_bytes <= pages.LARGEST_DISK:
            raise errors.InvalidField(
                field="size_bytes", problem=f"{size_bytes} isn't within 0 and {pages.LARGEST_DISK}"
            )
        layout.checked("snapshot_uid", snapshot_uid)
        connected = self.connect()
        with self._environments_lock:
            environment_blobs = self._access.created(environment_uid)
            self._recordings[environment_uid] = self._recordings.get(environment_uid, 0) + 1
        inherited: list[bytes] = []

        def on_end() -> None:
            self._access.pins.unpin(inherited)
            with self._environments_lock:
                self._recordings[environment_uid] -= 1

        try:
            area = environment_blobs.home.area
            if self._access.manifest_key(connected.view, area, snapshot_uid) is not None:
                raise errors.AlreadyExists(resource_type="manifest", name=snapshot_uid)
            self._access.reconcile(environment_blobs)
            base = None
            if base_snapshot_uid is not None:
                base = self._pinned_base(environment_uid, base_snapshot_uid, inherited)
            empty = manifest.Document(
                snapshot_uid,
                connected.claim.epoch,
                size_bytes,
                connected.settings.block_size,
                pages.NOTHING,
                packtable.PackTable({}, {}),
                manifest.Statistics(),
                {},
            )
            scratch = self._access.index.path.with_name(f"{self._access.index.path.name}.pages-{next(self._numbers)}")
            begun = recording.Recording(environment_blobs, connected.claim, self._executor, empty, scratch, on_end)
        except BaseException:
            on_end()
            raise
        if base is not None:
            try:
                begun.inherit(base)
            except BaseException:
                begun.abort()
                raise
        return begun

    def _pinned_base(self, environment_uid: str, snapshot_uid: str, inherited: list[bytes]) -> manifest.Manifest:
        """Return a base whose packs are pinned and noted in `inherited`."""
        base = self.manifest(environment_uid, snapshot_uid)
        while missing := base.document.packs.references.keys() - set(inherited):
            self._access.pins.pin(missing)
            inherited.extend(missing)
            # Deleted and collected before the pins were set? If the manifest is still there, no collection took its
            # packs; if it is another one by now, its packs aren't pinned yet.
            base = self.manifest(environment_uid, snapshot_uid)
        return base

    # --- reading ---

    def manifest(self, environment_uid: str, snapshot_uid: str, host: str | None = None) -> manifest.Manifest:
        """Return an archived snapshot, of this host or of another one that shares the store (see `reading`).

        Raises errors.NotFound, errors.Corrupt, errors.ArchiveKeyMissing.
        """
        area, view = self._access.believed(environment_uid, host)
        key = self._access.manifest_key(view, area, snapshot_uid)
        if key is None:
            self._access.check(view.host)
            raise errors.NotFound(resource_type="archived snapshot", name=snapshot_uid)
        try:
            environment_blobs = self._access.opened(area, view)
        except errors.NotFound as error:
            self._access.check(view.host)
            raise errors.Corrupt(what=f"environment record {environment_uid}", problem="it is gone") from error
        try:
            data = documents.fetch(self._store, key, manifest.what(snapshot_uid))
        except errors.NotFound as error:
            self._access.check(view.host)
            raise errors.NotFound(resource_type="archived snapshot", name=snapshot_uid) from error
        document = manifest.decode(environment_blobs.home, snapshot_uid, manifest.epoch_of(key), data)
        return manifest.Manifest(environment_blobs, document)

    @contextmanager
    def reading(self, environment_uid: str, host: str) -> Iterator[None]:
        """Keep another host from deleting packs of one of its environments for the length of a block."""
        connected = self.connect()
        area = layout.Area(host, environment_uid)
        lease = leases.Lease(self._store, self._access.host, area, connected.claim.epoch)
        connected.add_lease(lease)
        try:
            yield
        finally:
            connected.take_lease(lease)
            lease.give_back()

    def snapshots(self, environment_uid: str, host: str | None = None) -> list[str]:
        """Return the uids of an environment's archived snapshots, sorted; none if there is no such environment."""
        area, view = self._access.believed(environment_uid, host)
        found = sorted(view.manifests(self._store, area)[0])
        if not found:
            self._access.check(view.host)
        return found

    def environments(self, host: str | None = None) -> list[str]:
        """Return the uids of a host's environments, sorted."""
        owner = self._access.host if host is None else layout.Host(host)
        found = self._access.view(owner).environments(self._store)
        if not found:
            self._access.check_reachable()
        return found

    def hosts(self) -> list[str]:
        """Return the hosts that have claimed a part of the store, sorted."""
        found = sorted(filter(layout.is_element, self._store.folders(layout.HOSTS)))
        return [host for host in found if views.load(self._store, layout.Host(host)).epoch]

    def last_seen(self, host: str) -> datetime.datetime | None:
        """Return when a host's owner last gave a sign of life, by the store's clock; None if it has ended in order."""
        return claims.last_renewal(self._store, layout.Host(host))

    def stored_bytes(self, environment_uid: str | None = None) -> int:
        """Return the bytes of all objects of an environment, or of this host."""
        host = self._access.host
        prefix = host.prefix if environment_uid is None else layout.Area(host.name, environment_uid).prefix
        return sum(size_bytes for _, size_bytes in self._store.list(prefix))

    def free_bytes(self) -> int | None:
        """Return the room left in the store, or None where there is no such figure."""
        return self._store.free_bytes()

    # --- deleting ---

    def delete_snapshot(self, environment_uid: str, snapshot_uid: str) -> bool:
        """Delete a snapshot's manifest; True if it was there. A collection frees what only it used."""
        connected = self.connect()
        area = self._access.area(environment_uid)
        keys = [key for key in connected.view.manifest_keys(area, snapshot_uid) if self._store.size(key) is not None]
        if not keys:
            connected.claim.require()
            return False
        return bool(tombstones.remove(self._store, connected.claim, area, keys, lambda: False))

    def delete_environment(self, environment_uid: str) -> None:
        """Delete all that is left of an environment without archived snapshots, unless a host is reading it still.

        May be repeated.

        Raises errors.EnvironmentNotEmpty if it has manifests or is being recorded into.
        """
        connected = self.connect()
        area = self._access.area(environment_uid)
        with self._environments_lock:
            left = len(self.snapshots(environment_uid)) + self._recordings.get(environment_uid, 0)
            if left:
                raise errors.EnvironmentNotEmpty(name=environment_uid, volumes=0, snapshots=left)
            keys = [key for key, _ in self._store.list(area.prefix) if not key.startswith(area.tombstones)]
            for pack_id in index.pack_ids((key, 0) for key in keys):
                self._access.index.forget(pack_id)
            if keys:
                # The records last: while there is one, what is left of an environment is found again.
                keys.sort(key=lambda key: key.startswith(area.records))
                if (
                    tombstones.remove(
                        self._store, connected.claim, area, keys, lambda: leases.is_read(self._store, area)
                    )
                    is None
                ):
                    # Another host is reading what was deleted; a later call finds all of it again.
                    return
            tombstones.clear(self._store, area, connected.view.tombstones(self._store, area)[0])
            self._access.forget(area)


def _block_sizes() -> list[int]:
    return [1 << bits for bits in range(pages.SMALLEST_BLOCK.bit_length() - 1, pages.LARGEST_BLOCK.bit_length())]
