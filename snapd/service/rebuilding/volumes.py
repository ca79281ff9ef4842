"""What becomes of each volume: it goes on with the head that was found, or is FAILED without one."""

import dataclasses
from collections.abc import Mapping

from snapd import model
from snapd.service import names
from snapd.service.rebuilding import evidence as evidences
from snapd.service.rebuilding import heads, naming, survey


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A volume of the new catalog."""

    volume: model.Volume
    recovered: str = ""
    """What is uncertain about it, or ''."""
    lost: str = ""
    """Why it has no contents, or '' if it has, or hadn't before either."""


def gather(evidence: evidences.Evidence, choices: Mapping[str, heads.Choice]) -> list[Found]:
    """Return all volumes of the new catalog. Those without a head are those of the backup only."""
    found = []
    for uid, choice in sorted(choices.items()):
        known = evidence.base.volumes.get(uid)
        if known is not None:
            found.append(_of_base(evidence, known, choice))
        elif choice.layer is not None:
            found.append(_described(evidence, evidence.pool.layers[choice.layer], choice))
    return found


def _of_base(evidence: evidences.Evidence, volume: model.Volume, choice: heads.Choice) -> Found:
    rivals = _rivals(choice)
    state, problem, lost = model.VolumeState.READY, "", ""
    if volume.state is model.VolumeState.FAILED:
        return Found(_placed(evidence, volume, choice.layer, volume.state, volume.error), rivals)
    if volume.state is model.VolumeState.DESTROYING:
        problem = "it was being deleted"
    elif choice.layer is None:
        making = volume.state is model.VolumeState.CREATING
        problem = "it was being made" if making else "it was deleted after the backup, or is lost"
        lost = f"{problem}: {choice.problem}"
    error = None
    if problem:
        state = model.VolumeState.FAILED
        error = evidences.rebuilt(names.volume(volume.environment, volume.id), problem)
    return Found(_placed(evidence, volume, choice.layer, state, error), lost or problem or rivals, lost)


def _rivals(choice: heads.Choice) -> str:
    return f"its contents may be those of {', '.join(choice.rivals)}" if choice.rivals else ""


def _placed(
    evidence: evidences.Evidence,
    volume: model.Volume,
    layer: str | None,
    state: model.VolumeState,
    error: model.Problem | None,
) -> model.Volume:
    """Return a volume on its head, with the size and the point that this one says."""
    if layer is None:
        return dataclasses.replace(volume, state=state, error=error, head_layer=None, parent_point=None)
    file = evidence.pool.layers[layer]
    point = volume.parent_point if layer == volume.head_layer else None
    if file.generation != survey.UNDESCRIBED:
        point = None if file.stand is None else file.stand[0]
    return dataclasses.replace(
        volume, state=state, error=error, head_layer=layer, parent_point=point, size_bytes=file.size_bytes
    )


def _described(evidence: evidences.Evidence, file: survey.LayerFile, choice: heads.Choice) -> Found:
    head = file.described()
    assert head is not None, "a head of a volume that the backup doesn't know is described"
    owner = head.owner
    volume_id = naming.believable_id(owner.id, "volume", owner.uid)
    volume = model.Volume(
        uid=owner.uid,
        environment_uid=owner.environment_uid,
        environment=owner.environment,
        id=volume_id,
        display_name=naming.believable_text(owner.display_name, volume_id),
        labels=naming.believable_labels(owner.labels),
        role=owner.role,
        instance=naming.believable_text(owner.instance, ""),
        size_bytes=file.size_bytes,
        state=model.VolumeState.READY,
        error=None,
        source_snapshot=naming.believable_text(owner.source_snapshot, ""),
        head_layer=file.uid,
        parent_point=None if head.stand is None else head.stand.point,
        created=owner.created,
        updated=evidence.now,
        revision=0,
    )
    return Found(volume, _rivals(choice) or "it isn't in the backup; its head's header knows it")
