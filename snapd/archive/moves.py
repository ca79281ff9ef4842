"""Moves: where the blobs of packs went that were emptied because little of them was alive (docs/archive-format.md).

The highest number of the newest believed epoch is the whole truth; each publication says all that still matters.
Manifests go on naming the old packs.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from snapd import errors
from snapd.archive import documents, environment, layout, names, pack
from snapd.archive.backends import backend
from snapd.archive.fencing import view as views

_VERSION: Final = 1
_ATTEMPTS: Final = 8
_ROW: Final = 2 * layout.PACK_ID_LENGTH
_PROBLEM: Final = "its table can't be one"

Table = Mapping[bytes, tuple[bytes, ...]]
"""For each moved pack the packs that hold what was alive of it."""


class Moves:
    """One environment's moves. Thread-safe."""

    def __init__(
        self,
        store: backend.Backend,
        home: environment.Environment,
        view: Callable[[], views.View],
        check_reachable: Callable[[], None],
    ) -> None:
        """Know nothing until `reload`. `view` returns what is believed of the host now; check_reachable raises
        errors.ArchiveUnreachable if the whole store is missing.
        """
        self._store = store
        self._check_reachable = check_reachable
        self._home = home
        self._view = view
        self._lock = threading.Lock()
        self._table: Table | None = None

    def targets(self, pack_id: bytes) -> tuple[bytes, ...]:
        """Return the packs to which what was alive of a pack went; none if it wasn't moved."""
        table = self._table
        return (self.reload() if table is None else table).get(pack_id, ())

    def table(self) -> Table:
        """Return all of it, as far as it is known."""
        table = self._table
        return self.reload() if table is None else table

    def reload(self) -> Table:
        """Read it again. Raises errors.Corrupt, errors.ArchiveUnreachable."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                key, _others = self._view().moves(self._store, self._home.area)
                if key is None:
                    self._check_reachable()
                    self._table = {}
                    return self._table
                try:
                    self._table = self._read(key)
                    return self._table
                except errors.NotFound:
                    # Newer ones were published between the listing and the reading.
                    continue
        # Or a seal names them, and they are gone: to go on without them would be to take for dead what they lead to.
        self._check_reachable()
        raise errors.Corrupt(what=f"moves of environment {self._home.area.environment_uid}", problem="they are missing")

    def publish(self, table: Table, epoch: int) -> None:
        """Say this from now on, durably. Only the owner does, one at a time. Raises errors.AlreadyExists."""
        area = self._home.area
        with self._lock:
            mine = [layout.numbered(key.removeprefix(area.moves)) for key, _ in self._store.list(area.moves)]
            number = 1 + max((found[1] for found in mine if found and found[0] == epoch), default=0)
            if number > layout.LARGEST_EPOCH:
                raise errors.Corrupt(what=f"moves of environment {area.environment_uid}", problem="none can follow")
            members = {
                "version": _VERSION,
                "environment_uid": area.environment_uid,
                "host": area.host,
                "epoch": epoch,
                "number": number,
                "moves": documents.base64_text(_encode(table)),
            }
            self._store.put(area.move(epoch, number), [documents.encode(members, self._hash)])
            self._table = table

    def superseded(self) -> list[str]:
        """Return the keys of the moves that no longer count."""
        return self._view().moves(self._store, self._home.area)[1]

    def _hash(self, body: bytes) -> bytes:
        return names.keyed(self._home.key, names.Kind.MOVES, body)

    def _read(self, key: str) -> Table:
        area = self._home.area
        what = f"moves {key.removeprefix(area.moves)} of environment {area.environment_uid}"
        members = documents.decode(what, documents.fetch(self._store, key, what), self._hash, _VERSION)
        found = layout.numbered(key.removeprefix(area.moves))
        assert found is not None, "a key that no listing of believed moves gives"
        documents.expect(what, members, environment_uid=area.environment_uid, host=area.host)
        # Or else older moves could be passed off as the newest, and a collection would believe them.
        documents.expect(what, members, epoch=found[0], number=found[1])
        return _decode(what, documents.base64_bytes(what, members.get("moves")))


def joined(old: Table, new: Table, still_named: Iterable[bytes]) -> Table:
    """Return what old and new moves say together of the packs that are still named by anybody."""
    everything: dict[bytes, tuple[bytes, ...]] = {}
    for pack_id in still_named:
        if pack_id in new:
            everything[pack_id] = new[pack_id]
        elif pack_id in old:
            # What was moved twice is found in one step.
            led_to = [further for target in old[pack_id] for further in new.get(target, (target,))]
            everything[pack_id] = tuple(dict.fromkeys(led_to))
    return everything


def _encode(table: Table) -> bytes:
    return b"".join(sorted(pack_id + target for pack_id, targets in table.items() for target in targets))


def _decode(what: str, data: bytes) -> Table:
    """Return the table that _encode made into bytes: rows of 32 bytes, ascending. Raises errors.Corrupt."""
    if len(data) % _ROW:
        raise errors.Corrupt(what=what, problem=_PROBLEM)
    rows = [data[start : start + _ROW] for start in range(0, len(data), _ROW)]
    if any(one >= other for one, other in itertools.pairwise(rows)):
        raise errors.Corrupt(what=what, problem=_PROBLEM)
    found = {
        pack_id: tuple(row[layout.PACK_ID_LENGTH :] for row in group)
        for pack_id, group in itertools.groupby(rows, lambda row: row[: layout.PACK_ID_LENGTH])
    }
    if any(len(targets) > pack.MOST_BLOBS for targets in found.values()):
        raise errors.Corrupt(what=what, problem=_PROBLEM)
    return found
