"""Access to one archive: the session with its store, what is believed of each host, and environments by their keys.

What recordings, readers and upkeep stand on. It connects to the store when that is first needed.
"""

import dataclasses
import datetime
import pathlib
import threading
from collections.abc import Callable

from snapd import errors
from snapd.archive import blobs, codec, environment, index, layout, pins, sealing, session
from snapd.archive import moves as moving
from snapd.archive.backends import backend, watched
from snapd.archive.fencing import view as views


class Access:
    """The way to everything in an archive. Thread-safe."""

    def __init__(
        self,
        store: backend.Backend,
        index_path: pathlib.Path,
        host: str,
        *,
        block_size: int,
        level: int,
        keyring: sealing.Keyring | None,
        now: Callable[[], datetime.datetime],
    ) -> None:
        """See `repository.Repository`."""
        self._watched = watched.WatchedBackend(store)
        self.store: backend.Backend = self._watched
        self.host = layout.Host(host)
        self.keyring = keyring
        self._now = now
        self.pins = pins.Pins()
        self.index = index.Index(index_path, host)
        self._new_block_size = block_size
        self._claim_path = index_path.with_name(f"{index_path.stem}.claim")
        self._codec = codec.Codec(level)
        self._session: session.Session | None = None
        self._refusal: errors.SnapdError | None = None
        self._connect_lock = threading.Lock()
        self._blobs: dict[layout.Area, blobs.Blobs] = {}
        self._blobs_lock = threading.Lock()
        self._reconciled: dict[str, int] = {}
        self._reconcile_lock = threading.Lock()

    def connect(self, *, adopt: bool = False) -> session.Session:
        """Return the session, begun if there is none. Raises as `repository.Repository.connect` does."""
        with self._connect_lock:
            if self._session is None:
                self._session = self._connect(adopt=adopt)
            return self._session

    def _connect(self, *, adopt: bool) -> session.Session:
        try:
            if self.index.repository_uid() is None:
                self.store.discard_unfinished(layout.REPOSITORY)
                session.create(self.store, self._new_block_size, encrypted=self.keyring is not None)
            settings = session.load(self.store, self._hint)
            session.require_key(settings, self.keyring)
            self.index.adopt(settings.uid)
            begun = session.Session.begin(self.store, settings, self.host, self._claim_path, adopt=adopt)
        except errors.SnapdError as error:
            self._refusal = dataclasses.replace(error)
            if isinstance(error, errors.ArchiveUnreachable | errors.ArchiveRefused):
                self._watched.missed(error)
            raise
        self._refusal = None
        return begun

    @property
    def trouble(self) -> errors.SnapdError | None:
        """What keeps this host from using the archive, as far as is known without asking."""
        connected = self._session
        if connected is None:
            return self._refusal
        return self.unreachable or connected.claim.loss

    @property
    def unreachable(self) -> errors.SnapdError | None:
        """What keeps this host from reading the archive, as far as is known without asking."""
        if isinstance(self._refusal, errors.ArchiveKeyMissing):
            return self._refusal
        return self._watched.trouble

    def close(self) -> None:
        """Let go of the claim and close the index."""
        with self._connect_lock:
            if self._session is not None:
                self._session.end()
                self._session = None
        self.index.close()

    def area(self, environment_uid: str) -> layout.Area:
        """Return one of our own environments."""
        return layout.Area(self.host.name, environment_uid)

    # --- what is believed ---

    def view(self, host: layout.Host) -> views.View:
        """Return what is believed of a host: of our own, once we have claimed it, that doesn't change."""
        connected = self._session
        return connected.view if connected is not None and host == self.host else views.load(self.store, host)

    def believed(self, environment_uid: str, host: str | None) -> tuple[layout.Area, views.View]:
        """Return an environment of a host, or of ours, and what is believed of it."""
        area = layout.Area(host or self.host.name, environment_uid)
        return area, self.view(layout.Host(area.host))

    def manifest_key(self, view: views.View, area: layout.Area, snapshot_uid: str) -> str | None:
        """Return the key of a snapshot's manifest, or None if it has none that is believed."""
        keys = view.manifest_keys(area, snapshot_uid)
        return next((key for key in keys if self.store.size(key) is not None), None)

    # --- environments ---

    def opened(self, area: layout.Area, view: views.View) -> blobs.Blobs:
        """Return an environment. Raises errors.NotFound, errors.Corrupt, errors.ArchiveKeyMissing."""
        with self._blobs_lock:
            known = self._blobs.get(area)
        if known is not None and area.host == self.host.name:
            return known
        # Another host may have deleted it and made it again, with another key.
        return self._opened(environment.load(self.store, area, view.epoch, self.keyring))

    def created(self, environment_uid: str) -> blobs.Blobs:
        """Return one of our own environments, made if it isn't there. Raises as `opened` does."""
        area, connected = self.area(environment_uid), self.connect()

        def is_in_use() -> bool:
            return bool(connected.view.manifests(self.store, area)[0])

        return self._opened(environment.create(self.store, area, connected.claim.epoch, self.keyring, is_in_use))

    def forget(self, area: layout.Area) -> None:
        """Know nothing of an environment any more: it is gone."""
        with self._blobs_lock:
            self._blobs.pop(area, None)
        with self._reconcile_lock:
            self._reconciled.pop(area.environment_uid, None)

    def reconcile(self, environment_blobs: blobs.Blobs) -> None:
        """Compare the index with the store, once for each environment and process."""
        with self._reconcile_lock:
            if self._reconciled.get(environment_blobs.domain) != self.index.generation:
                environment_blobs.reconcile(self.view(self.host))
                self._reconciled[environment_blobs.domain] = self.index.generation

    def _opened(self, home: environment.Environment) -> blobs.Blobs:
        area = home.area
        is_ours = area.host == self.host.name
        with self._blobs_lock:
            known = self._blobs.get(area)
            if known is None or known.home != home:
                known = self._blobs[area] = blobs.Blobs(
                    self.store,
                    home,
                    # What is learned of another host's packs must not be taken for ours.
                    area.environment_uid if is_ours else f"{area.host}/{area.environment_uid}",
                    self._codec,
                    self.index,
                    self.pins,
                    moving.Moves(
                        self.store,
                        home,
                        lambda: self.view(layout.Host(area.host)),
                        lambda: self.check(layout.Host(area.host)),
                    ),
                    lambda: self.check(layout.Host(area.host)),
                    self._now,
                )
            return known

    # --- the store ---

    def check_reachable(self) -> None:
        """Raise errors.ArchiveUnreachable if the store doesn't even have this archive's settings: it isn't mounted."""
        try:
            found = session.load(self.store, self._hint)
            expected = self.index.repository_uid()
            if expected is not None and found.uid != expected:
                raise errors.ArchiveUnreachable(problem=f"another archive is there: {found.uid}, not {expected}")
        except errors.Unavailable as error:
            self._watched.missed(error)
            raise

    def check(self, host: layout.Host) -> None:
        """Raise if something of a host is missing and that is no damage.

        Raises as check_reachable does, and, of our own, errors.ArchiveClaimLost: somebody else may have removed it.
        """
        self.check_reachable()
        connected = self._session
        if connected is not None and host == self.host:
            connected.claim.require()

    @property
    def _hint(self) -> str:
        return f"or is a new one: then remove the index {self.index.path}"
