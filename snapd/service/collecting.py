"""Collecting the archive's garbage: packs that nothing needs or of which little is alive, environments that are gone.

The keeper does it round by round, and Collect when somebody asks for it.
"""

import datetime
import logging
from typing import Final

from snapd import clock as clocks
from snapd import errors, units
from snapd.archive import collection
from snapd.catalog import environments
from snapd.service import core as cores
from snapd.service.inspection import copies

LOOK: Final = datetime.timedelta(hours=1)
"""How often an environment's packs are looked through for sparse ones, at most: it costs reading the manifests."""
REST: Final = datetime.timedelta(hours=24)
"""How long an environment is left alone whose packs weren't as sparse as they looked: finding out is a long walk."""

_PART: Final = 0.1
_BYTES: Final = 256 * units.MIB

_log = logging.getLogger(__name__)


class Collector:
    """Collects environments, each by one caller at a time."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core
        self._rests: dict[str, clocks.Span] = {}
        """How long an environment's packs aren't looked through."""

    def collect(self, environment_uid: str, *, repack: bool = False) -> collection.Collected | None:
        """Collect an environment, and repack it if that pays or is asked for; None if somebody is reading its packs.

        Then it is tried again when they are done. Raises errors.Corrupt, errors.ArchiveUnreachable,
        errors.ArchiveClaimed, errors.ArchiveClaimLost, errors.ArchiveKeyMissing.
        """
        core = self._core
        with core.pins.alone([cores.packs_of(environment_uid)]) as alone:
            if not alone:
                core.postpone([cores.packs_of(environment_uid)], environment=environment_uid)
                return None
            return self._collect(environment_uid, repack=repack)

    def _collect(self, environment_uid: str, *, repack: bool) -> collection.Collected:
        repository, hints = self._core.repository, self._core.hints
        self._require_whole(environment_uid)
        # What is being checked or recorded is left, and may be garbage all the same.
        collected = repository.upkeep.collect(environment_uid, lambda: hints.environment(environment_uid))
        if repack or self._pays(environment_uid):
            repacked = repository.upkeep.repack(environment_uid)
            if not repacked.packs_moved:
                self._rests[environment_uid] = clocks.span(self._core.clock, REST)
            collected = collected.plus(repacked)
        gone = environments.by_uid(self._core.catalog.reader(), environment_uid) is None
        if gone and environment_uid != cores.CATALOG_AREA and not repository.snapshots(environment_uid):
            repository.delete_environment(environment_uid)
        if collected.packs_deleted or collected.packs_moved or collected.packs_postponed:
            _log.info("collected archive garbage", extra={"environment": environment_uid, "collected": str(collected)})
        return collected

    def _require_whole(self, environment_uid: str) -> None:
        """Require that no manifest is missing: what it led to would be garbage, and a manifest may be brought back."""
        core = self._core
        lost = copies.lost(core.catalog.reader, core.repository, environment_uid)
        if lost:
            core.suspects.add(environment_uid)
            raise errors.Corrupt(
                what=f"the archive of environment {environment_uid}",
                problem=f"the manifests of {len(lost)} archived snapshots are missing, {lost[0]} for one; "
                "nothing is collected until they are back, or the snapshots are deleted",
            )

    def _pays(self, environment_uid: str) -> bool:
        """Say whether an environment's packs are to be looked through now, and look sparse enough to be repacked."""
        rest = self._rests.get(environment_uid)
        if rest is not None and not rest.is_over(self._core.now()):
            return False
        self._rests[environment_uid] = clocks.span(self._core.clock, LOOK)
        sparse, total = self._core.repository.upkeep.sparse_bytes(environment_uid)
        return sparse > 0 and (sparse >= _BYTES or sparse >= total * _PART)
