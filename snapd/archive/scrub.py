"""Scrubs: reading packs again, whole, to find damage before somebody needs them; and saying whom it hits, and where."""

import dataclasses
import datetime
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

import numpy as np

from snapd import errors
from snapd.archive import blobs, collection, index, manifest, pack, packtable, pages
from snapd.archive.backends import backend

ALL: Final = ((0, pages.LARGEST_DISK),)
"""The ranges of a disk whose size can't be read."""

_ROUNDING: Final = 1e-9
_CATCHING_UP: Final = 10
"""How many times the mean rate packs are checked at that should have been before."""


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """What is lost of one snapshot."""

    snapshot_uid: str
    ranges: tuple[tuple[int, int], ...]
    """(offset, length) in bytes of the disk, ascending, neighbours joined. ALL if even its manifest can't be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scrubbed:
    """What was read of one pack."""

    pack_id: bytes
    size_bytes: int
    problem: str
    """What is wrong with it, or ''."""


def oldest_first(packs: Iterable[index.Pack]) -> list[index.Pack]:
    """Return packs in the order in which they are to be checked, those first of which it isn't known when they were."""
    return sorted(packs, key=lambda one: (one.checked is not None, one.checked))


def due(packs: Iterable[index.Pack], before: datetime.datetime) -> list[index.Pack]:
    """Return the packs that weren't checked since a moment, in their order."""
    return [one for one in oldest_first(packs) if one.checked is None or one.checked < before]


def due_evenly(
    packs: Iterable[index.Pack], now: datetime.datetime, interval: datetime.timedelta, period: datetime.timedelta
) -> list[index.Pack]:
    """Return the packs to be checked now, so that each is once within each interval, if that is asked once in a period.

    As few of them as will do: those that must be, for the others to be done in time at the mean rate. So what was
    written in one day is spread over the interval, and a pack by itself is left until its time has come. What should
    have been checked long ago, or isn't known to have been, is caught up with at a multiple of that rate. A check
    in the future was made while the clock was wrong, so it isn't known when.
    """
    latest = now + period
    ordered = oldest_first(
        dataclasses.replace(one, checked=None) if one.checked is not None and one.checked > latest else one
        for one in packs
    )
    unknown = sum(one.checked is None for one in ordered)
    wanted = unknown
    for place, one in enumerate(ordered, 1):
        if one.checked is not None:
            left = max(one.checked + interval - now, datetime.timedelta(0))
            wanted = max(wanted, math.floor(place - len(ordered) * (left / interval) + _ROUNDING))
    share = math.ceil(_CATCHING_UP * len(ordered) * (period / interval))
    return ordered[: min(wanted, share)]


def scrub(
    environment_blobs: blobs.Blobs, store: backend.Backend, packs: Iterable[index.Pack], check: Callable[[], None]
) -> Iterator[Scrubbed]:
    """Read and check packs of an environment, one after the other.

    Reads from `store`, which may be slower than the environment's own. `check` is called between packs and may raise.
    Each pack is pinned while it is read. Raises errors.ArchiveUnreachable, errors.ArchiveKeyMissing.
    """
    for one in packs:
        check()
        with environment_blobs.pins.lock:
            if environment_blobs.index.pack(one.pack_id) is None:
                # Collected since.
                continue
            environment_blobs.pins.pin([one.pack_id])
        try:
            yield Scrubbed(one.pack_id, one.size_bytes, _check(environment_blobs, store, one))
        finally:
            environment_blobs.pins.unpin([one.pack_id])


def _check(environment_blobs: blobs.Blobs, store: backend.Backend, known: index.Pack) -> str:
    """Check one pack, note the outcome in the index and return what is wrong."""
    try:
        pack.verify(store, environment_blobs.home, known.pack_id, environment_blobs.codec, known.size_bytes)
    except (errors.Corrupt, errors.NotFound) as error:
        environment_blobs.check_reachable()
        environment_blobs.index.mark(known.pack_id, index.State.DAMAGED)
        return error.problem if isinstance(error, errors.Corrupt) else "it is missing"
    environment_blobs.index.mark(known.pack_id, index.State.PROVEN, environment_blobs.now())
    return ""


def oldest_checks(environment_blobs: blobs.Blobs, found: collection.Reached) -> dict[str, datetime.datetime | None]:
    """Return for each snapshot when the pack that was checked longest ago was; None if that isn't known of one."""
    known = environment_blobs.index.packs(environment_blobs.domain)
    result: dict[str, datetime.datetime | None] = {}
    for snapshot_uid, table in found.tables.items():
        places = places_of(environment_blobs, table)
        times = [known[place].checked if place in known else None for place in places]
        sure = [time for time in times if time is not None]
        result[snapshot_uid] = min(sure) if sure and len(sure) == len(times) else None
    return result


def places_of(environment_blobs: blobs.Blobs, table: packtable.PackTable) -> set[bytes]:
    """Return the packs in which what a snapshot refers to lies now, as far as is known."""
    return {place for old in table.references for place in environment_blobs.moves.targets(old) or (old,)}


def missing(environment_blobs: blobs.Blobs, table: packtable.PackTable) -> set[bytes]:
    """Return the packs that a snapshot names and that are known to be damaged, or are missing or cut short now.

    Asks the store for each. Of those that were moved it says whether that is so of any that they were moved to.
    """
    marked = environment_blobs.index.damaged(environment_blobs.domain)
    area = environment_blobs.home.area
    found: set[bytes] = set()
    for pack_id, size_bytes in table.sizes.items():
        targets = environment_blobs.moves.targets(pack_id)
        for place in targets or (pack_id,):
            stored = environment_blobs.store.size(area.pack(place))
            if place in marked or stored is None or (not targets and stored != size_bytes):
                found.add(pack_id)
    return found


def damage(snapshot: manifest.Manifest, suspects: set[bytes]) -> Damage:
    """Return what can't be read of a snapshot, looking at what lies in suspected packs only.

    A page that can't be read hides all that lies below it. Raises errors.ArchiveUnreachable.
    """
    lost: list[tuple[int, int]] = []
    depth = pages.depth_for(snapshot.blocks)
    pending = [(depth - 1, 0, snapshot.document.root)]
    while pending:
        level, number, entry = pending.pop()
        if entry.is_nothing:
            continue
        if level < 0:
            if _is_lost(snapshot, number, entry):
                lost.append((number, number + 1))
            continue
        try:
            page = snapshot.page(entry)
        except errors.Corrupt:
            span = pages.FANOUT ** (level + 1)
            lost.append((number * span, min((number + 1) * span, snapshot.blocks)))
            continue
        for position in _to_visit(pages.as_array(page), suspects, every=level > 0):
            pending.append((level - 1, number * pages.FANOUT + position, pages.decode(page, position)))
    return Damage(snapshot.snapshot_uid, _in_bytes(lost, snapshot.block_size, snapshot.size_bytes))


def _to_visit(entries: pages.Entries, suspects: set[bytes], *, every: bool) -> list[int]:
    present = entries["name"].any(axis=1)
    if every:
        return [int(position) for position in np.flatnonzero(present)]
    return [int(position) for position in np.flatnonzero(present) if entries["pack"][position].tobytes() in suspects]


def _is_lost(snapshot: manifest.Manifest, number: int, entry: pages.Entry) -> bool:
    try:
        snapshot.read_entry(number, entry)
    except errors.Corrupt:
        return True
    return False


def _in_bytes(blocks: list[tuple[int, int]], block_size: int, size_bytes: int) -> tuple[tuple[int, int], ...]:
    """Return ranges of blocks [first, end) as ranges of bytes, joined."""
    joined: list[list[int]] = []
    for first, end in sorted(blocks):
        start, stop = first * block_size, min(end * block_size, size_bytes)
        if joined and joined[-1][1] >= start:
            joined[-1][1] = max(joined[-1][1], stop)
        else:
            joined.append([start, stop])
    return tuple((start, stop - start) for start, stop in joined)


def suspects(environment_blobs: blobs.Blobs, named: Collection[bytes]) -> set[bytes]:
    """Return which of the packs that manifests name are known to be damaged, or aren't known to be there.

    Of those that were moved it says whether that is so of any of the packs that they were moved to.
    """
    known = environment_blobs.index.packs(environment_blobs.domain)
    sound = {pack_id for pack_id, one in known.items() if one.state is not index.State.DAMAGED}
    targets = environment_blobs.moves.targets
    return {pack_id for pack_id in named if not sound.issuperset(targets(pack_id) or (pack_id,))}
