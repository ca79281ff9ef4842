"""What an environment takes, on primary storage and in the archive. It goes through files and stores: Get doesn't."""

import dataclasses
from typing import Final

from snapd import errors, model
from snapd.catalog import charges
from snapd.service import core as cores
from snapd.service import lookup

MOST: Final = 1_000
"""Snapshots of which is told what they take: so many fit into one answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class EnvironmentUsage:
    """What an environment takes."""

    environment: str
    """Its id."""
    volumes: int
    snapshots: int
    archived_snapshots: int
    provisioned_bytes: int
    """The sizes of its volumes."""
    primary: model.Space
    """In layers that only it depends on, and in those that another environment depends on too."""
    logical_bytes: int
    """The sizes of its archived snapshots."""
    figures: model.ArchiveFigures
    """Of its archived snapshots together."""
    stored_bytes: int | None
    """What the archive holds for it, with what isn't collected yet; None while the archive can't be reached."""
    by_snapshot: tuple[tuple[str, model.Space], ...]
    """What archived snapshots take in the archive, by uid, those that alone need the most first; MOST at most."""


class Usages:
    """The usage of environments."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def of_environment(self, environment_id: str) -> EnvironmentUsage:
        """Return what an environment takes. Raises errors.NotFound."""
        core = self._core
        reader = core.catalog.reader()
        environment = lookup.environment(reader, environment_id)
        held = charges.contents(reader, environment.uid)
        exclusive = shared = 0
        for uid, is_shared in charges.layers(reader, environment.uid).items():
            allocated = core.pool.allocated_bytes(uid)
            exclusive += 0 if is_shared else allocated
            shared += allocated if is_shared else 0
        return EnvironmentUsage(
            environment=environment_id,
            volumes=held.volumes,
            snapshots=held.snapshots,
            archived_snapshots=held.archived,
            provisioned_bytes=held.provisioned_bytes,
            primary=model.Space(exclusive, shared),
            logical_bytes=held.logical_bytes,
            figures=held.figures,
            stored_bytes=self._stored(environment.uid),
            by_snapshot=self._by_snapshot(environment.uid),
        )

    def _stored(self, environment_uid: str) -> int | None:
        repository = self._core.repository
        try:
            stored_bytes = repository.stored_bytes(environment_uid)
            if not stored_bytes:
                # A store that isn't mounted looks empty; this tells the one from the other.
                repository.snapshots(environment_uid)
            return stored_bytes
        except errors.Unavailable:
            return None

    def _by_snapshot(self, environment_uid: str) -> tuple[tuple[str, model.Space], ...]:
        try:
            found = self._core.repository.upkeep.usage(environment_uid)
        except (errors.Unavailable, errors.FailedPrecondition, errors.DataLoss):
            return ()
        spaces = [(uid, model.Space(exclusive, shared)) for uid, (exclusive, shared) in found.items()]
        return tuple(sorted(spaces, key=lambda item: -item[1].exclusive)[:MOST])
