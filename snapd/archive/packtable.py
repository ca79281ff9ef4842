"""The table of a manifest that says which packs its tree refers to, how often, and how long they are. Pure.

It is what makes a collection and the check of inherited packs cost what there are packs, and not what there are pages.
"""

import itertools
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from snapd import errors
from snapd.archive import layout, pack

_DTYPE: Final = np.dtype([("pack", "u1", layout.PACK_ID_LENGTH), ("references", "<u4"), ("size_bytes", "<u4")])


class PackTable(NamedTuple):
    """References and lengths by pack id."""

    references: dict[bytes, int]
    sizes: dict[bytes, int]


def encode(references: Mapping[bytes, int], sizes: Mapping[bytes, int]) -> bytes:
    """Return the table as bytes. `sizes` has at least the packs of `references`."""
    table = np.zeros(len(references), _DTYPE)
    ids = sorted(references)
    table["pack"] = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, layout.PACK_ID_LENGTH)
    table["references"] = [references[pack_id] for pack_id in ids]
    table["size_bytes"] = [sizes[pack_id] for pack_id in ids]
    return table.tobytes()


def decode(what: str, data: bytes) -> PackTable:
    """Return the table that encode made into bytes. Raises errors.Corrupt, naming `what`, if it can't be one."""
    if len(data) % _DTYPE.itemsize:
        raise errors.Corrupt(what=what, problem="its pack table is cut short")
    table = np.frombuffer(data, _DTYPE)
    text = table["pack"].tobytes()
    ids = [text[start : start + layout.PACK_ID_LENGTH] for start in range(0, len(text), layout.PACK_ID_LENGTH)]
    if any(one >= other for one, other in itertools.pairwise(ids)):
        raise errors.Corrupt(what=what, problem="its pack table isn't in order")
    if len(table) and (int(table["references"].min()) < 1 or int(table["size_bytes"].max()) > pack.LARGEST):
        raise errors.Corrupt(what=what, problem="its pack table holds impossible numbers")
    return PackTable(
        dict(zip(ids, table["references"].tolist(), strict=True)),
        dict(zip(ids, table["size_bytes"].tolist(), strict=True)),
    )
