"""Walks over the trees of an environment's manifests: which blobs are alive in which packs, and where damage shows.

Each page is read once, however many snapshots share it.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Final

import numpy as np

from snapd.archive import blobs, layout, names, pages

_PACK_TYPE: Final = f"V{layout.PACK_ID_LENGTH}"


def live_names(
    environment_blobs: blobs.Blobs, roots: Iterable[tuple[pages.Entry, int]], packs: Collection[bytes]
) -> dict[bytes, set[bytes]]:
    """Return the names of the blobs that entries place in some packs, by pack.

    `roots` are the manifests' root entries and depths. Raises errors.Corrupt if a page can't be read,
    errors.ArchiveUnreachable.
    """
    found: dict[bytes, set[bytes]] = {pack_id: set() for pack_id in packs}
    wanted = np.frombuffer(b"".join(sorted(packs)), _PACK_TYPE)
    visited: set[bytes] = set()
    for root, depth in roots:
        if root.is_nothing:
            continue
        if root.pack in found:
            found[root.pack].add(root.name)
        for entries in _pages_below(environment_blobs, root, depth - 1, visited):
            places = np.ascontiguousarray(entries["pack"]).view(_PACK_TYPE).reshape(-1)
            for position in np.flatnonzero(np.isin(places, wanted) & entries["name"].any(axis=1)).tolist():
                found[places[position].tobytes()].add(entries["name"][position].tobytes())
    return found


def _pages_below(
    environment_blobs: blobs.Blobs, root: pages.Entry, level: int, visited: set[bytes]
) -> Iterator[pages.Entries]:
    """Yield the entries of each page of a tree that wasn't visited before."""
    pending = [(root, level)]
    while pending:
        entry, level = pending.pop()
        # The same bytes may stand at two levels, but what lies below them is then read as something else.
        mark = entry.name + bytes([level])
        if mark in visited:
            continue
        visited.add(mark)
        page = environment_blobs.read(names.Kind.PAGE, entry, pages.PAGE_SIZE)
        entries = pages.as_array(page)
        yield entries
        if level > 0:
            present = np.flatnonzero(entries["name"].any(axis=1)).tolist()
            pending.extend((pages.decode(page, position), level - 1) for position in present)
