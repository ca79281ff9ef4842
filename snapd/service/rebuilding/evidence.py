"""Backup, pool and archive together, and what each of them is believed."""

import dataclasses
import datetime
import stat
from collections.abc import Collection
from typing import Final

from snapd import errors, model
from snapd.pool import layers as pools
from snapd.service import problems
from snapd.service.rebuilding import base as bases
from snapd.service.rebuilding import copies, survey

_LATER_THAN_HEAD: Final = frozenset({model.LayerState.FROZEN, model.LayerState.FOLDING, model.LayerState.DOOMED})


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """All that a catalog is rebuilt from."""

    base: bases.Base
    pool: survey.Pool
    archive: copies.Archive | None
    """None if it isn't asked: then the backup is believed."""
    now: datetime.datetime
    default_retention: datetime.timedelta = datetime.timedelta(days=1)

    def is_new(self, file: survey.LayerFile | survey.Refused) -> bool:
        """Say whether a file was made after the backup.

        One that isn't in the backup, and is no younger, had been forgotten by then: an earlier rebuild left it alone.
        """
        if file.uid in self.base.layers:
            return False
        if file.generation == survey.UNDESCRIBED:
            # Without a backup nothing is older than it.
            return self.base.generation == 0
        return file.generation > self.base.generation

    def is_believed(self, file: survey.LayerFile) -> bool:
        """Say whether what a file's description says is of a volume's life that the catalog knew to its end."""
        return file.uid in self.base.layers or self.is_new(file)

    def was_frozen(self, uid: str) -> bool:
        """Say whether a layer was a head no longer when the backup was made; it never is one again."""
        found = self.base.layers.get(uid)
        return found is not None and found.state in _LATER_THAN_HEAD

    def is_frozen(self, file: survey.LayerFile) -> bool:
        """Say whether a layer isn't written any more, by its mode, what stands on it, or the backup."""
        if not file.mode & stat.S_IWUSR or file.uid in self.pool.children or self.was_frozen(file.uid):
            return True
        # Heads of releases that described none were as private as what a fold has just given its name.
        by_fold = file.mode == pools.MERGING_MODE and file.generation != survey.UNDESCRIBED
        return by_fold or file.mode == pools.FILLING_MODE

    def is_partial(self, file: survey.LayerFile, heads: Collection[str]) -> bool:
        """Say whether a layer may hold some of its child's data, so that its own contents are nobody's.

        Then the child says so too, unless a fold the other way has begun since. Once the layer has taken the child's
        name it is whole, and nothing that stands on it says anything. A head is never folded with anything.
        """
        above = (self.pool.layers[uid] for uid in self.pool.children.get(file.uid, ()) if uid not in heads)
        return file.mode == pools.MERGING_MODE and any(each.mode != pools.FROZEN_MODE for each in above)

    def is_archived(self, snapshot_uid: str) -> bool:
        """Say whether a snapshot is in the archive and can be read from there, as far as is known."""
        if self.archive is None:
            found = self.base.snapshots.get(snapshot_uid)
            return found is not None and found.archive.state is model.ArchiveState.ARCHIVED
        copy = self.archive.copies.get(snapshot_uid)
        return copy is not None and not copy.problem


def rebuilt(name: str, problem: str) -> model.Problem:
    """Return the error that is stored with something of which it isn't known what became of it."""
    return problems.describe(errors.CatalogRebuilt(name=name, problem=problem))
