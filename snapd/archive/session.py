"""A repository's connection to its store: the archive's settings, this host's claim, and what keeps both alive.

Made when it is first needed, and again after it failed: a daemon runs without its archive until that comes back.
"""

import dataclasses
import functools
import logging
import pathlib
import secrets
import threading
import time
from typing import Final

from snapd import errors
from snapd.archive import documents, layout, names, pages, sealing
from snapd.archive.backends import backend
from snapd.archive.fencing import claim as claims
from snapd.archive.fencing import leases
from snapd.archive.fencing import view as views

_VERSION: Final = 1
_FORMAT: Final = "snapd-archive"
_SEALED: Final = "sealed"
"""Name of the feature that archives with encryption require."""

_seal: Final = functools.partial(names.plain, names.Kind.REPOSITORY)
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What the archive as a whole is, settled when it was made."""

    uid: str
    block_size: int
    """Bytes of guest data in a block."""
    encrypted: bool


def load(store: backend.Backend, hint: str) -> Settings:
    """Return the settings of the archive in a store; `hint` says what to do if it is a new one.

    Raises errors.ArchiveUnreachable if there are none: then it isn't mounted. errors.Corrupt, errors.SchemaTooNew.
    """
    what = layout.REPOSITORY
    try:
        data = documents.fetch(store, layout.REPOSITORY, what)
    except errors.NotFound as error:
        raise errors.ArchiveUnreachable(problem=f"{what} is missing: the store isn't mounted ({hint})") from error
    members = documents.decode(what, data, _seal, _VERSION)
    documents.expect(what, members, format=_FORMAT)
    known: list[str] = []
    for name in ("required_to_read", "required_to_write"):
        required = members.get(name)
        if not isinstance(required, list) or set(map(str, required)) - {_SEALED}:
            raise errors.SchemaTooNew(path=f"{what} ({name}: {required})", found=_VERSION + 1, known=_VERSION)
        known += required
    block_size = documents.integer(what, members, "block_size", pages.SMALLEST_BLOCK, pages.LARGEST_BLOCK)
    if block_size & (block_size - 1):
        raise errors.Corrupt(what=what, problem=f"its block_size, {block_size}, is no power of two")
    uid = documents.hexadecimal(what, members.get("uid"), 16).hex()
    return Settings(uid, block_size, encrypted=_SEALED in known)


def create(store: backend.Backend, block_size: int, *, encrypted: bool) -> None:
    """Make the archive's settings unless they are there."""
    if store.size(layout.REPOSITORY) is not None:
        return
    required = [_SEALED] if encrypted else []
    members = {
        "format": _FORMAT,
        "version": _VERSION,
        "uid": secrets.token_hex(16),
        "block_size": block_size,
        "required_to_read": required,
        "required_to_write": required,
    }
    try:
        store.put(layout.REPOSITORY, [documents.encode(members, _seal)])
    except errors.AlreadyExists:
        # Another host was faster: its settings count.
        return


def require_key(settings: Settings, keyring: sealing.Keyring | None) -> None:
    """Raise errors.ArchiveKeyMissing or errors.ArchiveNotEncrypted unless there are keys just where they are needed."""
    if settings.encrypted and keyring is None:
        raise errors.ArchiveKeyMissing(what="the archive", key="(none is configured)")
    if keyring is not None and not settings.encrypted:
        raise errors.ArchiveNotEncrypted()


class Session:
    """The right to write, kept alive by a thread. Made while nobody else uses the repository."""

    def __init__(self, store: backend.Backend, settings: Settings, claim: claims.Claim, view: views.View) -> None:
        """Use `begin` instead."""
        self.settings = settings
        self.claim = claim
        self.view = view
        self._store = store
        self._began = time.monotonic()
        self._ending = threading.Event()
        self._leases: set[leases.Lease] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._renew_now_and_then, name="archive-lease", daemon=True)

    @classmethod
    def begin(
        cls, store: backend.Backend, settings: Settings, host: layout.Host, claim_path: pathlib.Path, *, adopt: bool
    ) -> "Session":
        """Claim a host's prefix and take over what is there.

        Raises errors.ArchiveClaimed, errors.ArchiveUnreachable.
        """
        claim = claims.take(store, host, claim_path, settings.uid, adopt=adopt)
        view = views.adopt(store, host, claim.epoch)
        store.discard_unfinished(host.prefix)
        leases.sweep(store, host, claim.epoch)
        session = cls(store, settings, claim, view)
        session._thread.start()
        return session

    @property
    def settled(self) -> bool:
        """True once no request of an earlier process of this host can take effect any more."""
        return time.monotonic() - self._began >= self._store.settling.total_seconds()

    def add_lease(self, lease: leases.Lease) -> None:
        """Have a lease renewed until it is taken away."""
        with self._lock:
            self._leases.add(lease)

    def take_lease(self, lease: leases.Lease) -> None:
        """Leave a lease to its owner again."""
        with self._lock:
            self._leases.discard(lease)

    def end(self) -> None:
        """End the thread, and let others adopt the prefix if that is asked of them."""
        self._ending.set()
        self._thread.join()
        try:
            self.claim.release()
        except errors.SnapdError as error:
            # Then its lease runs out by itself.
            _log.info("the archive's lease could not be given back: %s", error)

    def _renew_now_and_then(self) -> None:
        while not self._ending.wait(claims.RENEWAL.total_seconds()):
            try:
                self.claim.renew()
                with self._lock:
                    for lease in self._leases:
                        lease.renew_if_old()
            except errors.SnapdError as error:
                _log.warning("the archive's lease could not be renewed: %s", error)
