"""What one recording stores: blobs that the environment lacks, in packs that are proven as soon as they are full.

Hashing, compressing and writing happen in the caller's thread, which has a pack to itself meanwhile. Full packs are
published, read back and offered to deduplication by the repository's sealing threads, so nobody waits for the disk
until too many packs are under way. Knows nothing of pages and manifests.
"""

import threading
from collections.abc import Collection
from concurrent import futures
from contextlib import ExitStack
from typing import Final

from snapd import errors, fsops
from snapd.archive import blobs, index, names, pack, pages
from snapd.archive.backends import backend

_MOST_UNPROVEN: Final = 4
"""Packs of one recording that may wait to be published and proven; whoever fills a fifth waits."""


class Deposit:
    """Stores blobs once. `put` may be called by many threads; the rest by one, when none puts."""

    def __init__(
        self, environment_blobs: blobs.Blobs, executor: futures.Executor, largest_blob: int, epoch: int
    ) -> None:
        """Seal packs of an epoch on executor. No blob is longer than largest_blob bytes."""
        self.pinned: set[bytes] = set()
        """Packs that are pinned for this recording; the owner gives them back. Guarded by the pins' lock."""
        self.sealed: dict[bytes, int] = {}
        """Lengths of the packs that were published and proven, by id."""
        self._blobs = environment_blobs
        self._executor = executor
        self._largest_blob = largest_blob
        self._epoch = epoch
        self._lock = threading.Lock()
        self._unproven = threading.BoundedSemaphore(_MOST_UNPROVEN)
        self._placed: dict[bytes, pages.Entry] = {}
        self._idle: list[pack.Writer] = []
        self._sealing: list[futures.Future[None]] = []
        self._failure: errors.SnapdError | None = None

    def put(self, kind: names.Kind, data: backend.Bytes) -> tuple[pages.Entry, int]:
        """Return a blob's entry, and how many bytes it took to store it: 0 if it was there.

        Raises errors.ArchiveUnreachable, errors.StorageFull or errors.Corrupt, also for an earlier pack that failed.
        """
        name = names.keyed(self._blobs.home.key, kind, data)
        with self._lock:
            self._check()
            entry = self._placed.get(name)
        if entry is None:
            entry = self._blobs.find(name, self.pinned)
        if entry is not None:
            return entry, 0
        encoded = self._blobs.codec.encode(data)
        writer = self._take_writer()
        try:
            buffers = writer.seal(kind, name, encoded)
            with self._lock:
                entry = self._placed.get(name)
                if entry is None:
                    # Noted before it is written: a thread with the same data must not store it a second time.
                    entry = self._placed[name] = writer.reserve(kind, name, len(data), buffers)
                    stored = entry.length
                else:
                    stored = 0
            if stored:
                writer.append(buffers)
        except errors.SnapdError as error:
            self.fail(error)
            raise
        finally:
            self._give_back(writer)
        return entry, stored

    def flush(self) -> None:
        """Publish and prove what was put so far. Raises what went wrong with any of it."""
        with self._lock:
            idle, self._idle = self._idle, []
        for writer in idle:
            self._seal_later(writer)
        futures.wait(self._sealing)
        with self._lock:
            self._check()

    def prove_hits(self, trusted: Collection[bytes]) -> None:
        """Prove the packs in which blobs were found and that nobody has proven yet, except the trusted ones.

        Raises errors.Corrupt for one that is damaged.
        """
        for pack_id in self.pinned - self.sealed.keys() - set(trusted):
            known = self._blobs.index.pack(pack_id)
            if known is not None and known.state is index.State.FOUND:
                self._prove(pack_id, known.size_bytes, decode=True)
                self._blobs.index.mark(pack_id, index.State.PROVEN)

    def discard(self) -> None:
        """Forget the packs that aren't full, and wait for those that are being sealed."""
        futures.wait(self._sealing)
        with self._lock:
            idle, self._idle = self._idle, []
        with ExitStack() as stack:
            # One that fails must not keep the others from being let go.
            for writer in idle:
                stack.callback(writer.discard)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def fail(self, error: errors.SnapdError) -> None:
        """Have everything from now on raise this error: what was put isn't whole."""
        with self._lock:
            self._failure = self._failure or error

    def _take_writer(self) -> pack.Writer:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        writer = pack.Writer(self._blobs.store, self._blobs.home, self._epoch)
        with self._blobs.pins.lock:
            self._blobs.pins.pin([writer.pack_id])
            self.pinned.add(writer.pack_id)
        return writer

    def _give_back(self, writer: pack.Writer) -> None:
        if writer.has_room(self._largest_blob):
            with self._lock:
                self._idle.append(writer)
        else:
            self._seal_later(writer)

    def _seal_later(self, writer: pack.Writer) -> None:
        self._unproven.acquire()
        future = self._executor.submit(self._seal, writer)
        with self._lock:
            self._sealing = [running for running in self._sealing if not running.done()]
            self._sealing.append(future)

    def _seal(self, writer: pack.Writer) -> None:
        """Publish a pack, prove it and offer its blobs."""
        try:
            if self._failure is None:
                with backend.translated(pack.label(writer.pack_id)):
                    finished = writer.finish()
                    fsops.point("archive.pack-finished")
                self._prove(finished.pack_id, finished.size_bytes, decode=False)
                self._offer(finished)
        except errors.SnapdError as error:
            self.fail(error)
        except BaseException as error:
            # A thread of an executor has nobody to raise to; the recording must not go on as if it were proven.
            self.fail(errors.ArchiveUnreachable(problem=f"{pack.label(writer.pack_id)}: {error!r}"))
            raise
        finally:
            try:
                writer.discard()
            finally:
                self._unproven.release()

    def _prove(self, pack_id: bytes, size_bytes: int, *, decode: bool) -> None:
        """Read a pack back and check it: what somebody else wrote blob by blob, what we wrote byte by byte."""
        store, home = self._blobs.store, self._blobs.home
        try:
            if decode:
                pack.verify(store, home, pack_id, self._blobs.codec, size_bytes)
            else:
                pack.prove(store, home, pack_id, size_bytes)
        except (errors.Corrupt, errors.NotFound) as error:
            self._blobs.check_reachable()
            self._blobs.index.add(self._blobs.domain, index.Pack(pack_id, size_bytes, index.State.DAMAGED), ())
            problem = error.problem if isinstance(error, errors.Corrupt) else "it is missing"
            raise errors.Corrupt(what=pack.label(pack_id), problem=f"not proven: {problem}") from error

    def _offer(self, finished: pack.Index) -> None:
        proven = index.Pack(finished.pack_id, finished.size_bytes, index.State.PROVEN, checked=self._blobs.now())
        self._blobs.index.add(self._blobs.domain, proven, (row.name for row in finished.rows))
        with self._lock:
            self.sealed[finished.pack_id] = finished.size_bytes
            # Only now: at each moment a blob is found here or in the index.
            for row in finished.rows:
                del self._placed[row.name]
