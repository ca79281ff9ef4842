"""The archive as one host uses it: recordings into its own prefix, manifests out of any, collections of its own.

One process owns a host's prefix; any number of threads use the repository.
"""

import functools
import itertools
import pathlib
import secrets
import threading
from concurrent import futures
from typing import Final

from snapd import errors, units
from snapd.archive import (
    blobs,
    codec,
    collection,
    documents,
    environment,
    index,
    layout,
    manifest,
    names,
    packtable,
    pages,
    pins,
    recording,
)
from snapd.archive.backends import backend

_VERSION: Final = 1
_FORMAT: Final = "snapd-archive"
_SEALING_THREADS: Final = 2
_seal: Final = functools.partial(names.plain, names.Kind.REPOSITORY)


class Repository:
    """An archive. Thread-safe. All methods raise errors.ArchiveUnreachable when the store doesn't answer."""

    def __init__(
        self, store: backend.Backend, local_index: index.Index, host: str, uid: str, block_size: int, level: int
    ) -> None:
        """Use `open` instead."""
        self.block_size = block_size
        self.uid = uid
        self._store = store
        self._index = local_index
        self._host = host
        self._codec = codec.Codec(level)
        self._pins = pins.Pins()
        self._executor = futures.ThreadPoolExecutor(_SEALING_THREADS, thread_name_prefix="archive-seal")
        self._blobs: dict[layout.Area, blobs.Blobs] = {}
        self._reconciled: dict[str, int] = {}
        self._recordings: dict[str, int] = {}
        self._numbers = itertools.count()
        self._environments_lock = threading.RLock()
        self._reconcile_lock = threading.Lock()
        self._collection_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        store: backend.Backend,
        index_path: pathlib.Path,
        host: str,
        *,
        block_size: int = 256 * units.KIB,
        level: int = 1,
    ) -> "Repository":
        """Open the archive in a store, and make one if there is none; then `block_size` (bytes) is settled for good.

        The index at index_path is made anew if it is missing or another archive's. `level` is zstd's.
        Raises errors.InvalidField, errors.Corrupt, errors.SchemaTooNew, errors.ArchiveUnreachable; the last also if
        the index knows an archive and the store is empty: then it isn't mounted.
        """
        if block_size not in _block_sizes():
            raise errors.InvalidField(field="block_size", problem=f"{block_size} is none of {_block_sizes()}")
        prefix = layout.host_prefix(host)
        local_index = index.Index(index_path, host)
        try:
            expected = local_index.repository_uid()
            if expected is None:
                _create(store, block_size)
            uid, settled_block_size = _load(store, index_path)
            local_index.adopt(uid)
            store.discard_unfinished(prefix)
            store.discard_unfinished(layout.REPOSITORY)
        except BaseException:
            local_index.close()
            raise
        return cls(store, local_index, host, uid, settled_block_size, level)

    def close(self) -> None:
        """Wait for what is being sealed and close the index."""
        self._executor.shutdown()
        self._index.close()

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
        with self._environments_lock:
            home = environment.create(self._store, layout.Area(self._host, environment_uid))
            environment_blobs = self._blobs_of(home)
            self._recordings[environment_uid] = self._recordings.get(environment_uid, 0) + 1
        inherited: list[bytes] = []

        def on_end() -> None:
            self._pins.unpin(inherited)
            with self._environments_lock:
                self._recordings[environment_uid] -= 1

        try:
            if self._store.size(home.area.manifest(snapshot_uid)) is not None:
                raise errors.AlreadyExists(resource_type="manifest", name=snapshot_uid)
            self._reconcile(environment_blobs)
            base = None
            if base_snapshot_uid is not None:
                base = self._pinned_base(environment_uid, base_snapshot_uid, inherited)
            empty = manifest.Document(
                snapshot_uid,
                size_bytes,
                self.block_size,
                pages.NOTHING,
                packtable.PackTable({}, {}),
                manifest.Statistics(),
                {},
            )
            scratch = self._index.path.with_name(f"{self._index.path.name}.pages-{next(self._numbers)}")
            begun = recording.Recording(environment_blobs, self._executor, empty, scratch, on_end)
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
        pack_ids = list(base.document.packs.references)
        self._pins.pin(pack_ids)
        inherited.extend(pack_ids)
        # Deleted and collected before the pins were set? If the manifest is still there, no collection took its packs.
        return self.manifest(environment_uid, snapshot_uid)

    def _reconcile(self, environment_blobs: blobs.Blobs) -> None:
        """Compare the index with the store, once for each environment and process."""
        environment_uid = environment_blobs.home.area.environment_uid
        with self._reconcile_lock:
            if self._reconciled.get(environment_uid) != self._index.generation:
                environment_blobs.reconcile()
                self._reconciled[environment_uid] = self._index.generation

    # --- reading ---

    def manifest(self, environment_uid: str, snapshot_uid: str, host: str | None = None) -> manifest.Manifest:
        """Return an archived snapshot, of this host or of another one that shares the store.

        Raises errors.NotFound, errors.Corrupt.
        """
        area = layout.Area(host or self._host, environment_uid)
        key = area.manifest(snapshot_uid)
        try:
            environment_blobs = self._blobs_of_area(area)
            data = documents.fetch(self._store, key, manifest.what(snapshot_uid))
        except errors.NotFound as error:
            self._check_reachable()
            if self._store.size(key) is not None:
                raise errors.Corrupt(what=f"environment record {environment_uid}", problem="it is gone") from error
            raise errors.NotFound(resource_type="archived snapshot", name=snapshot_uid) from error
        document = manifest.decode(environment_blobs.home, snapshot_uid, data)
        return manifest.Manifest(environment_blobs, document)

    def snapshots(self, environment_uid: str, host: str | None = None) -> list[str]:
        """Return the uids of an environment's archived snapshots, sorted; none if there is no such environment."""
        prefix = layout.Area(host or self._host, environment_uid).manifests
        found = sorted(key.removeprefix(prefix) for key, _ in self._store.list(prefix))
        if not found:
            self._check_reachable()
        return found

    def environments(self, host: str | None = None) -> list[str]:
        """Return the uids of a host's environments, sorted."""
        prefix = layout.environments_prefix(host or self._host)
        keys = (key.removeprefix(prefix) for key, _ in self._store.list(prefix))
        found = sorted(key.removesuffix(".json") for key in keys if "/" not in key)
        if not found:
            self._check_reachable()
        return found

    def hosts(self) -> list[str]:
        """Return the hosts that have environments in the store, sorted."""
        return sorted({key.split("/")[1] for key, _ in self._store.list("hosts/")})

    def stored_bytes(self, environment_uid: str | None = None) -> int:
        """Return the bytes of all objects of an environment, or of this host."""
        if environment_uid is None:
            return sum(size_bytes for _, size_bytes in self._store.list(layout.host_prefix(self._host)))
        area = layout.Area(self._host, environment_uid)
        return sum(size_bytes for _, size_bytes in self._store.list(area.prefix)) + (self._store.size(area.record) or 0)

    def free_bytes(self) -> int | None:
        """Return the room left in the store, or None where there is no such figure."""
        return self._store.free_bytes()

    # --- deleting ---

    def delete_snapshot(self, environment_uid: str, snapshot_uid: str) -> bool:
        """Delete a snapshot's manifest; True if it was there. A collection frees what only it used."""
        return self._store.delete(layout.Area(self._host, environment_uid).manifest(snapshot_uid))

    def delete_environment(self, environment_uid: str) -> None:
        """Delete all that is left of an environment without archived snapshots. May be repeated.

        Raises errors.EnvironmentNotEmpty if it has manifests or is being recorded into.
        """
        area = layout.Area(self._host, environment_uid)
        with self._environments_lock:
            left = len(self.snapshots(environment_uid)) + self._recordings.get(environment_uid, 0)
            if left:
                raise errors.EnvironmentNotEmpty(name=environment_uid, volumes=0, snapshots=left)
            for pack_id in index.pack_ids(self._store.list(area.packs)):
                self._index.forget(pack_id)
                self._store.delete(area.pack(pack_id))
            self._store.delete(area.record)
            self._blobs.pop(area, None)
            self._reconciled.pop(environment_uid, None)

    def collect(self, environment_uid: str | None = None) -> collection.Collected:
        """Delete the packs that no manifest reaches and no recording relies on, of one environment or of all.

        Raises errors.Corrupt for an environment with a manifest that can't be read, after the others were collected.
        """
        total = collection.Collected()
        failure: errors.Corrupt | None = None
        with self._collection_lock:
            for uid in self.environments() if environment_uid is None else [environment_uid]:
                try:
                    environment_blobs = self._blobs_of_area(layout.Area(self._host, uid))
                    total = total.plus(collection.collect(environment_blobs))
                except errors.NotFound:
                    # Without a record there is no environment: it was never begun, or has just been deleted.
                    self._check_reachable()
                except errors.Corrupt as error:
                    failure = failure or error
        if failure is not None:
            raise failure
        return total

    # --- inside ---

    def _blobs_of_area(self, area: layout.Area) -> blobs.Blobs:
        with self._environments_lock:
            known = self._blobs.get(area)
        return known or self._blobs_of(environment.load(self._store, area))

    def _blobs_of(self, home: environment.Environment) -> blobs.Blobs:
        with self._environments_lock:
            known = self._blobs.get(home.area)
            if known is None or known.home != home:
                known = self._blobs[home.area] = blobs.Blobs(
                    self._store, home, self._codec, self._index, self._pins, self._check_reachable
                )
            return known

    def _check_reachable(self) -> None:
        """Raise errors.ArchiveUnreachable if the store doesn't even have this archive's settings: it isn't mounted."""
        _load(self._store, self._index.path)


def _block_sizes() -> list[int]:
    return [1 << bits for bits in range(pages.SMALLEST_BLOCK.bit_length() - 1, pages.LARGEST_BLOCK.bit_length())]


def _create(store: backend.Backend, block_size: int) -> None:
    """Make the archive's settings unless they are there."""
    if store.size(layout.REPOSITORY) is not None:
        return
    members = {
        "format": _FORMAT,
        "version": _VERSION,
        "uid": secrets.token_hex(16),
        "block_size": block_size,
        "required_to_read": [],
        "required_to_write": [],
    }
    try:
        store.put(layout.REPOSITORY, [documents.encode(members, _seal)])
    except errors.AlreadyExists:
        # Another host was faster: its settings count.
        return


def _load(store: backend.Backend, index_path: pathlib.Path) -> tuple[str, int]:
    """Return uid and block size of the archive in a store."""
    what = layout.REPOSITORY
    try:
        data = documents.fetch(store, layout.REPOSITORY, what)
    except errors.NotFound as error:
        problem = f"{what} is missing: the store isn't mounted (or is a new one: then remove the index {index_path})"
        raise errors.ArchiveUnreachable(problem=problem) from error
    members = documents.decode(what, data, _seal, _VERSION)
    documents.expect(what, members, format=_FORMAT)
    for name in ("required_to_read", "required_to_write"):
        if members.get(name) != []:
            raise errors.SchemaTooNew(path=f"{what} ({name}: {members.get(name)})", found=_VERSION + 1, known=_VERSION)
    block_size = documents.integer(what, members, "block_size", pages.SMALLEST_BLOCK, pages.LARGEST_BLOCK)
    return documents.hexadecimal(what, members.get("uid"), 16).hex(), block_size
