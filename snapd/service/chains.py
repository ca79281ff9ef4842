"""The layers that a volume is made of: what they take, and who else needs them."""

import dataclasses
import sqlite3
from typing import Final

from snapd import model
from snapd.catalog import dependents, layers
from snapd.service import core as cores
from snapd.service import lookup, names

MOST_VOLUMES: Final = 100
"""Other volumes that are named for a layer: a template may have thousands of clones."""


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """One layer of a volume."""

    layer: model.Layer
    allocated_bytes: int
    snapshots: tuple[str, ...]
    """Names of those whose contents it is the top of."""
    volumes: tuple[str, ...]
    """Names of other volumes of the environment that stand on it and on none of the layers above it."""
    volume_count: int
    """How many there are, those of other environments too."""


class Chains:
    """The chains of all volumes."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def of_volume(self, environment_id: str, volume_id: str) -> list[Link]:
        """Return the layers of a volume, its head first; none of one that is still to be made. Raises errors.NotFound.

        The chain is that of one moment; who else needs its layers is asked after it, layer by layer.
        """
        reader = self._core.catalog.reader()
        while True:
            volume = lookup.volume(reader, environment_id, volume_id)
            chain = [] if volume.head_layer is None else layers.chain(reader, volume.head_layer)
            if lookup.volume(reader, environment_id, volume_id).head_layer == volume.head_layer:
                # No head comes twice, so it was this one all the while: what another one lets go of is on its way out.
                break
        above = (None, *(layer.uid for layer in chain))
        return [self._link(reader, layer, upper, volume) for layer, upper in zip(chain, above, strict=False)]

    def _link(self, reader: sqlite3.Connection, layer: model.Layer, above: str | None, volume: model.Volume) -> Link:
        snapshots = dependents.snapshots_of(reader, layer.uid, volume.environment_uid)
        others, count = dependents.volumes_beside(reader, layer.uid, above, volume.environment_uid)
        return Link(
            layer=layer,
            allocated_bytes=self._core.pool.allocated_bytes(layer.uid),
            snapshots=tuple(names.snapshot(volume.environment, found) for found in snapshots),
            volumes=tuple(names.volume(volume.environment, found) for found in others[:MOST_VOLUMES]),
            volume_count=count,
        )
