"""Claims: the right to write below a host's prefix, one epoch after the other (docs/archive-sharing.md).

step 1    the token is written to the own disk                             point archive.claim-noted
commit    the claim                                                        point archive.claimed
undo      nothing: a token without a claim is made anew

A claim is an object that only its maker can have made, for its token lies on the maker's own disk. The highest one
counts, and is asked for again before anything that rests on it.
"""

import contextlib
import datetime
import functools
import json
import pathlib
import secrets
import threading
from typing import Final

from snapd import errors, fsops
from snapd.archive import documents, layout, names
from snapd.archive.backends import backend

LEASE: Final = datetime.timedelta(minutes=5)
"""Nobody adopts a prefix whose owner has shown a sign of life within this time, by the store's clock."""
RENEWAL: Final = LEASE / 3

_VERSION: Final = 1
_TOKEN_LENGTH: Final = 16
_seal: Final = functools.partial(names.plain, names.Kind.CLAIM)


class Claim:
    """The claim of this process. Thread-safe."""

    def __init__(self, store: backend.Backend, host: layout.Host, epoch: int) -> None:
        """Use `take` instead."""
        self.host = host
        self.epoch = epoch
        self._store = store
        self._lock = threading.Lock()
        self._renewals = 0
        self._lost = False

    def require(self) -> None:
        """Read the claims again. Raises errors.ArchiveClaimLost for good if a higher one is there.

        Raises errors.ArchiveUnreachable if even our own isn't.
        """
        if not self._lost:
            highest = max(_claimed(self._store, self.host), default=0)
            if highest < self.epoch:
                raise errors.ArchiveUnreachable(problem=f"claim {self.epoch} of host {self.host.name} can't be seen")
            self._lost = highest > self.epoch
        loss = self.loss
        if loss is not None:
            raise loss

    @property
    def loss(self) -> errors.ArchiveClaimLost | None:
        """That a higher claim was seen, if one was; asks nobody."""
        return errors.ArchiveClaimLost(host=self.host.name, epoch=self.epoch) if self._lost else None

    def renew(self) -> None:
        """Give a sign of life. Raises errors.ArchiveClaimLost, errors.ArchiveUnreachable."""
        self.require()
        with self._lock:
            earlier = [key for key, _ in self._store.list(self.host.renewals)]
            self._renewals = 1 + max((_count(key, self.epoch) for key in earlier), default=0)
            with contextlib.suppress(errors.AlreadyExists):
                self._store.put(self.host.renewal(self.epoch, self._renewals), [])
            for key in earlier:
                # A newer owner's signs of life are its own: we may just not know yet that there is one.
                if _epoch(key) <= self.epoch:
                    self._store.delete(key)

    def release(self) -> None:
        """Show that the prefix may be adopted at once. The claim goes on to count, for who has its token."""
        with self._lock:
            for key, _ in list(self._store.list(self.host.renewals)):
                if _count(key, self.epoch):
                    self._store.delete(key)


def take(store: backend.Backend, host: layout.Host, path: pathlib.Path, repository_uid: str, *, adopt: bool) -> Claim:
    """Return the claim of whoever keeps its token at `path`: the one it has, the first one, or the next if it adopts.

    Raises errors.ArchiveClaimed if somebody else has it and isn't to be, or can't yet be, adopted; errors.Corrupt.
    """
    highest = max(_claimed(store, host), default=0)
    if highest and _is_ours(store, host, highest, _read_token(path, repository_uid, host)):
        return _begun(Claim(store, host, highest))
    if highest:
        _require_adoptable(store, host, highest, adopt=adopt)
    if highest == layout.LARGEST_EPOCH:
        raise errors.Corrupt(what=f"claim {highest} of host {host.name}", problem="no epoch can follow it")
    token = secrets.token_hex(_TOKEN_LENGTH)
    epoch = highest + 1
    # Ours before the store's: a claim whose token was lost would have to be adopted from ourselves.
    state = {"repository": repository_uid, "host": host.name, "epoch": epoch, "token": token}
    with fsops.translated(path):
        fsops.write_file(path, json.dumps(state).encode("ascii"))
    fsops.point("archive.claim-noted")
    members = {"version": _VERSION, "host": host.name, "epoch": epoch, "token": _public(token)}
    try:
        store.put(host.claim(epoch), [documents.encode(members, _seal)])
    except errors.AlreadyExists as error:
        raise errors.ArchiveClaimed(host=host.name, epoch=epoch, renewed="just now") from error
    fsops.point("archive.claimed")
    return _begun(Claim(store, host, epoch))


def _begun(claim: Claim) -> Claim:
    claim.renew()
    return claim


def last_renewal(store: backend.Backend, host: layout.Host) -> datetime.datetime | None:
    """Return when a host's owner last gave a sign of life, by the store's clock; None if it said that it has ended."""
    times = [store.modified(key) for key, _ in list(store.list(host.renewals))]
    return max((time for time in times if time is not None), default=None)


def _require_adoptable(store: backend.Backend, host: layout.Host, epoch: int, *, adopt: bool) -> None:
    renewed = last_renewal(store, host)
    if not adopt or (renewed is not None and store.now() - renewed < LEASE):
        shown = "when it ended" if renewed is None else renewed.isoformat(timespec="seconds")
        raise errors.ArchiveClaimed(host=host.name, epoch=epoch, renewed=shown)


def _claimed(store: backend.Backend, host: layout.Host) -> set[int]:
    return layout.claims_and_seals(host, [key for key, _ in store.list(host.epochs)])[0]


def _is_ours(store: backend.Backend, host: layout.Host, epoch: int, token: str | None) -> bool:
    what = f"claim {epoch} of host {host.name}"
    members = documents.decode(what, documents.fetch(store, host.claim(epoch), what), _seal, _VERSION)
    documents.expect(what, members, host=host.name, epoch=epoch)
    return token is not None and members.get("token") == _public(token)


def _public(token: str) -> str:
    """Return what of a token the store shows: whoever reads the store must not be able to pass for its owner."""
    return _seal(token.encode("ascii")).hex()


def _read_token(path: pathlib.Path, repository_uid: str, host: layout.Host) -> str | None:
    try:
        state = json.loads(path.read_bytes())
        same = state["repository"] == repository_uid and state["host"] == host.name
        return str(state["token"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        # No file, or one that can't be read: then the claim, if there is one, has to be adopted.
        return None


def _count(key: str, epoch: int) -> int:
    """Return the number of a renewal of an epoch; 0 for any other key."""
    found = layout.numbered(key.rpartition("/")[2])
    return found[1] if found is not None and found[0] == epoch else 0


def _epoch(key: str) -> int:
    """Return the epoch of a renewal; 0 for any other key."""
    found = layout.numbered(key.rpartition("/")[2])
    return 0 if found is None else found[0]
