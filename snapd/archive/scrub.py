"""Scrubs: reading packs again, whole, to find damage before somebody needs them; and saying whom it hits, and where."""

import dataclasses
import datetime
from collections.abc import Callable, Collection, Iterator

import numpy as np

from snapd import errors
from snapd.archive import blobs, collection, index, manifest, pack, pages
from snapd.archive.backends import backend


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """What is lost of one snapshot."""

    snapshot_uid: str
    ranges: tuple[tuple[int, int], ...]
    """(offset, length) in bytes of the disk, ascending, neighbours joined."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scrubbed:
    """What was read of one pack."""

    pack_id: bytes
    size_bytes: int
    problem: str
    """What is wrong with it, or ''."""


def scrub(
    environment_blobs: blobs.Blobs, store: backend.Backend, due_before: datetime.datetime, check: Callable[[], None]
) -> Iterator[Scrubbed]:
    """Read and check each pack of an environment that wasn't since `due_before`, the one checked longest ago first.

    Reads from `store`, which may be slower than the environment's own. `check` is called between packs and may raise.
    Each pack is pinned while it is read. Raises errors.ArchiveUnreachable, errors.ArchiveKeyMissing.
    """
    known = environment_blobs.index.packs(environment_blobs.domain)
    oldest_first = sorted(known.values(), key=lambda one: (one.checked is not None, one.checked))
    for one in oldest_first:
        if one.checked is not None and one.checked >= due_before:
            return
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
        places = {place for old in table.references for place in environment_blobs.moves.targets(old) or (old,)}
        times = [known[place].checked if place in known else None for place in places]
        sure = [time for time in times if time is not None]
        result[snapshot_uid] = min(sure) if sure and len(sure) == len(times) else None
    return result


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
