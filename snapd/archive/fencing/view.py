"""What is believed of what lies below a host's prefix, and the seals that say so (docs/archive-sharing.md).

All that the newest owner made is, and of what older ones made that which it found when it took over.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Final

from snapd import errors
from snapd.archive import documents, environment, layout, names
from snapd.archive.backends import backend
from snapd.archive.fencing import tombstones

_VERSION: Final = 1
_seal: Final = functools.partial(names.plain, names.Kind.SEAL)


@dataclasses.dataclass(frozen=True, slots=True)
class Adopted:
    """What is believed of older epochs in one environment."""

    manifests: Mapping[str, int]
    """Epochs by the uids of snapshots."""
    moves: str
    """The last element of the key of its moves, or ''."""


_NONE: Final = Adopted({}, "")


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """What is believed of one host."""

    host: layout.Host
    epoch: int
    """The newest epoch whose owner has taken over; 0 if there is none."""
    adopted: Mapping[str, Adopted]
    """By environment."""

    def manifest_keys(self, area: layout.Area, snapshot_uid: str) -> list[str]:
        """Return the keys at which a snapshot's manifest may be believed, the one that counts most first."""
        older = self.adopted.get(area.environment_uid, _NONE).manifests.get(snapshot_uid)
        epochs = [self.epoch] if older is None else [self.epoch, older]
        return [area.manifest(snapshot_uid, epoch) for epoch in epochs]

    def manifests(self, store: backend.Backend, area: layout.Area) -> tuple[dict[str, str], list[str]]:
        """Return the keys of an environment's manifests by the snapshots' uids, and the keys that nobody believes."""
        older = self.adopted.get(area.environment_uid, _NONE).manifests
        found: dict[str, tuple[int, str]] = {}
        disbelieved: list[str] = []
        for key, _ in store.list(area.manifests):
            parsed = layout.versioned(key.removeprefix(area.manifests))
            if parsed is None:
                # Somebody put something else there. It is none of our business.
                continue
            if parsed[1] != self.epoch and older.get(parsed[0]) != parsed[1]:
                disbelieved.append(key)
            elif parsed[0] not in found or found[parsed[0]][0] < parsed[1]:
                found[parsed[0]] = (parsed[1], key)
        return {uid: key for uid, (_, key) in found.items()}, disbelieved

    def moves(self, store: backend.Backend, area: layout.Area) -> tuple[str | None, list[str]]:
        """Return the key of an environment's moves that count, if there are any, and the keys of all others.

        What the seal names counts even if it is missing: then it is known that something is.
        """
        older = self.adopted.get(area.environment_uid, _NONE).moves
        listed = (key for key, _ in store.list(area.moves))
        keys = sorted(key for key in listed if layout.numbered(key.removeprefix(area.moves)) is not None)
        mine = [key for key in keys if key.startswith(area.moves + layout.text(self.epoch))]
        believed = mine[-1] if mine else area.moves + older if older else None
        return believed, [key for key in keys if key != believed]

    def environments(self, store: backend.Backend) -> list[str]:
        """Return the uids of the environments that have a record, sorted."""
        found = sorted(filter(layout.is_element, store.folders(self.host.environments)))
        return [uid for uid in found if store.size(layout.Area(self.host.name, uid).record(self.epoch)) is not None]


def load(store: backend.Backend, host: layout.Host) -> View:
    """Return what is believed of a host now. Raises errors.Corrupt, errors.SchemaTooNew, errors.ArchiveUnreachable."""
    claimed, sealed = layout.claims_and_seals(host, [key for key, _ in store.list(host.epochs)])
    epoch = max(sealed, default=min(claimed, default=0))
    if epoch not in sealed:
        return View(host, epoch, {})
    what = f"seal {epoch} of host {host.name}"
    members = documents.decode(what, documents.fetch(store, host.seal(epoch), what), _seal, _VERSION)
    documents.expect(what, members, host=host.name, epoch=epoch)
    environments = members.get("environments")
    if not isinstance(environments, dict):
        raise errors.Corrupt(what=what, problem="it names no environments")
    return View(host, epoch, {uid: _adopted(what, adopted) for uid, adopted in environments.items()})


def _adopted(what: str, members: documents.Json) -> Adopted:
    if not isinstance(members, dict) or not isinstance(members.get("manifests"), dict):
        raise errors.Corrupt(what=what, problem="it names no manifests")
    manifests = {
        uid: documents.integer(what, members["manifests"], uid, 1, layout.LARGEST_EPOCH) for uid in members["manifests"]
    }
    moves = members.get("moves")
    if not isinstance(moves, str) or (moves and layout.numbered(moves) is None):
        raise errors.Corrupt(what=what, problem=f"its moves are {moves!r}")
    return Adopted(manifests, moves)


def adopt(store: backend.Backend, host: layout.Host, epoch: int) -> View:
    """Return what the owner of an epoch believes, after taking over what older ones left, if that wasn't done yet.

    The caller has the claim. May be repeated. Raises errors.Corrupt, errors.ArchiveUnreachable.
    """
    before = load(store, host)
    if before.epoch == epoch:
        return before
    if before.epoch > epoch:
        # What we published would be believed by nobody.
        problem = f"it is there, and the highest claim is {epoch}"
        raise errors.Corrupt(what=f"seal {before.epoch} of host {host.name}", problem=problem)
    environments: dict[str, documents.Json] = {}
    for uid in before.environments(store):
        area = layout.Area(host.name, uid)
        # After the claim: whoever writes a tombstone later finds it lost before deleting anything. What owners before
        # the last one condemned in time isn't in the last one's seal; what they did later, they didn't delete.
        condemned = tombstones.named(store, area, since=before.epoch)
        if area.record(before.epoch) in condemned:
            continue
        # A key of our own: a late request may still delete the old one.
        environment.adopt(store, area, before.epoch, epoch)
        found, _ = before.manifests(store, area)
        moves, _ = before.moves(store, area)
        environments[uid] = {
            "manifests": {
                snapshot_uid: versioned[1]
                for snapshot_uid, key in found.items()
                if key not in condemned
                and (versioned := layout.versioned(key.removeprefix(area.manifests))) is not None
            },
            "moves": "" if moves is None else moves.removeprefix(area.moves),
        }
    members = {"version": _VERSION, "host": host.name, "epoch": epoch, "environments": environments}
    try:
        store.put(host.seal(epoch), [documents.encode(members, _seal)])
    except errors.AlreadyExists:
        # An earlier try of ours got this far, or its request has just arrived: what it says counts.
        return load(store, host)
    return load(store, host)
