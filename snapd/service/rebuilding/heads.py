"""Which file is a volume's head: the latest that was made to be it, unless that was frozen since."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

from snapd import model
from snapd.service.rebuilding import evidence as evidences
from snapd.service.rebuilding import survey


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What was found of a volume's head."""

    layer: str | None
    """None if there is none."""
    problem: str = ""
    """Why there is none."""
    rivals: tuple[str, ...] = ()
    """Layers of lower generations that could be the head too, and are left alone."""


def choose(evidence: evidences.Evidence) -> dict[str, Choice]:
    """Return the choice for each volume that the backup or a header knows, by its uid."""
    files: dict[str, list[survey.LayerFile | survey.Refused]] = {uid: [] for uid in evidence.base.volumes}
    every: Iterable[survey.LayerFile | survey.Refused] = itertools.chain(
        evidence.pool.layers.values(), evidence.pool.refused.values()
    )
    for file in every:
        if file.owner and (evidence.is_new(file) or _was_being_made(evidence, file.uid)):
            files.setdefault(file.owner, []).append(file)
    for uid, volume in evidence.base.volumes.items():
        files[uid] += _old_head(evidence.pool, volume, files[uid])
    return {uid: _choose(evidence, found) for uid, found in files.items()}


def _was_being_made(evidence: evidences.Evidence, uid: str) -> bool:
    found = evidence.base.layers.get(uid)
    return found is not None and found.state is model.LayerState.CREATING


def _old_head(
    pool: survey.Pool, volume: model.Volume, others: list[survey.LayerFile | survey.Refused]
) -> list[survey.LayerFile | survey.Refused]:
    """Return the file of the backup's head, if there is one that isn't among the others."""
    uid = volume.head_layer
    if uid is None or any(file.uid == uid for file in others):
        return []
    found = pool.layers.get(uid) or pool.refused.get(uid)
    return [] if found is None else [found]


def _choose(evidence: evidences.Evidence, files: list[survey.LayerFile | survey.Refused]) -> Choice:
    if not files:
        return Choice(None, "the file of its head isn't there")
    latest = max(files, key=lambda file: (file.generation, file.uid))
    rivals = tuple(
        sorted(
            file.uid
            for file in files
            if isinstance(file, survey.LayerFile) and file is not latest and not evidence.is_frozen(file)
        )
    )
    if isinstance(latest, survey.Refused):
        return Choice(None, f"the file {latest.uid} of its head can't be used: {latest.problem}", rivals)
    if evidence.is_frozen(latest):
        return Choice(None, f"its last layer {latest.uid} is frozen, and no head stands on it", rivals)
    return Choice(latest.uid, "", rivals)


def taken(choices: Mapping[str, Choice]) -> dict[str, str]:
    """Return the volumes' uids by the layers that are their heads."""
    return {choice.layer: uid for uid, choice in choices.items() if choice.layer is not None}
