"""Which methods are allowed in which states. The service asks this table, and so do the tests and the documentation."""

from collections.abc import Mapping

from snapd import errors, model

_V = model.VolumeState
_S = model.SnapshotState

VOLUME_METHODS: Mapping[str, frozenset[model.VolumeState]] = {
    "UpdateVolume": frozenset({_V.CREATING, _V.READY, _V.SNAPSHOT_IN_PROGRESS, _V.REVERTING, _V.FAILED}),
    "RevertVolume": frozenset({_V.READY}),
    "DeleteVolume": frozenset({_V.CREATING, _V.READY, _V.SNAPSHOT_IN_PROGRESS, _V.FAILED}),
    "WriteBlocks": frozenset({_V.READY, _V.SNAPSHOT_IN_PROGRESS}),
    "ExportVolume": frozenset({_V.READY, _V.SNAPSHOT_IN_PROGRESS}),
    "CheckVolume": frozenset({_V.READY, _V.SNAPSHOT_IN_PROGRESS}),
    "AttachVolume": frozenset({_V.READY, _V.SNAPSHOT_IN_PROGRESS}),
    "DetachVolume": frozenset({_V.READY, _V.SNAPSHOT_IN_PROGRESS}),
    "SetVolumeLimits": frozenset({_V.READY, _V.SNAPSHOT_IN_PROGRESS}),
    "CreateSnapshot": frozenset({_V.READY}),
    "CreateSnapshot (rapid)": frozenset({_V.READY, _V.SNAPSHOT_IN_PROGRESS}),
}
"""States of a volume in which a method is allowed. Get and List always are."""

SNAPSHOT_METHODS: Mapping[str, frozenset[model.SnapshotState]] = {
    "UpdateSnapshot": frozenset({_S.IN_PROGRESS, _S.COMPLETED, _S.FAILED}),
    "DeleteSnapshot": frozenset({_S.IN_PROGRESS, _S.COMPLETED, _S.FAILED}),
    "ArchiveSnapshot": frozenset({_S.IN_PROGRESS, _S.COMPLETED, _S.FAILED}),
    "VerifySnapshot": frozenset({_S.COMPLETED}),
    "AttachSnapshot": frozenset({_S.COMPLETED}),
    "DetachSnapshot": frozenset({_S.COMPLETED}),
    "RevertVolume": frozenset({_S.COMPLETED}),
    "CreateVolume": frozenset({_S.COMPLETED}),
    "ExportVolume": frozenset({_S.COMPLETED}),
}
"""States of a snapshot in which a method that names it is allowed."""


def _refusal(name: str, state: str, method: str, allowed: frozenset[str]) -> errors.WrongState:
    return errors.WrongState(name=name, state=state, method=method, allowed=" or ".join(sorted(allowed)))


def require_volume(method: str, name: str, state: model.VolumeState) -> None:
    """Raise errors.WrongState unless the method is allowed on a volume in that state."""
    allowed = VOLUME_METHODS[method]
    if state not in allowed:
        raise _refusal(name, state, method, frozenset(allowed))


def require_snapshot(method: str, name: str, state: model.SnapshotState) -> None:
    """Raise errors.WrongState unless the method is allowed on a snapshot in that state."""
    allowed = SNAPSHOT_METHODS[method]
    if state not in allowed:
        raise _refusal(name, state, method, frozenset(allowed))
