"""Checks of a volume's files: the head and the layers that it stands on, one after the other, and repair of the head.

What is wrong with a file is a result and no error. When a volume may be checked is decided here; what is looked at in a
file is the engine's business.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from snapd import errors, model
from snapd.catalog import layers
from snapd.qcow2.checking import check, repair
from snapd.service import core as cores
from snapd.service import heads as heading
from snapd.service import lookup, names, states, transfers


@dataclasses.dataclass(frozen=True, slots=True)
class LayerCheck:
    """The verdict on one file of a volume."""

    depth: int
    """0 is the head, then downwards."""
    layers: int
    """Files that the volume has."""
    report: check.CheckReport | None
    """What was counted, after the repair if there was one. None if the file is too damaged for that."""
    problem: str = ""
    """Why it could not be counted, or not be repaired."""
    leaks_fixed: int = 0
    corruptions_fixed: int = 0


class Check:
    """A check under way: the files are held still until it is closed. Used by one thread at a time."""

    def __init__(self, results: Iterator[LayerCheck], stack: ExitStack) -> None:
        self._results = results
        self._stack = stack

    def next(self) -> LayerCheck | None:
        """Check the next file and return the verdict; None after the last.

        Raises errors.ImageBusy, errors.StorageFailed, and for a repair errors.WrongState.
        """
        return next(self._results, None)

    def close(self) -> None:
        """Let go of the files. May be called again."""
        self._stack.close()

    def __enter__(self) -> "Check":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Checks:
    """The checks of all volumes."""

    def __init__(self, core: cores.Core, heads: heading.Heads, reading: transfers.Reading) -> None:
        self._core = core
        self._heads = heads
        self._reading = reading

    def begin(self, environment_id: str, volume_id: str, *, mend: bool) -> Check:
        """Begin to check a detached volume; it can't be written until the check is closed.

        `mend` has leaks and wrong refcounts of the head repaired. Raises errors.NotFound, errors.WrongState,
        errors.VolumeAttached, errors.StorageFull, errors.StorageFailed.
        """
        core = self._core
        name = names.volume(environment_id, volume_id)
        uid = lookup.volume(core.catalog.reader(), environment_id, volume_id).uid
        with core.locks.holding(uid), ExitStack() as stack:
            volume = lookup.volume(core.catalog.reader(), environment_id, volume_id)
            states.require_volume("CheckVolume", name, volume.state)
            assert volume.head_layer is not None
            # What an interrupted write left is mended by who owns it, so that a check never finds it. A head that is
            # too damaged for that is what the check tells of.
            with suppress(errors.Corrupt, errors.ImageRefused):
                self._heads.settle(volume.uid)
            stack.enter_context(self._reading.reading(volume.head_layer))
            below = stack.enter_context(core.pinned(volume.head_layer))
            return Check(self._results(volume, below, mend=mend), stack.pop_all())

    def _results(self, volume: model.Volume, below: list[model.Layer], *, mend: bool) -> Iterator[LayerCheck]:
        # The file of a layer that is being folded away may be gone already; nothing is read from it any more.
        there = [
            layer
            for layer in below
            if layer.state is not model.LayerState.FOLDING or self._core.pool.path(layer.uid).exists()
        ]
        for depth, layer in enumerate(there):
            found = self._look(depth, len(there), layer.uid)
            if depth == 0 and mend and found.report is not None and not found.report.clean:
                found = self._mend(volume, found)
            yield found

    def _look(self, depth: int, count: int, layer: str) -> LayerCheck:
        try:
            return LayerCheck(depth, count, check.check(self._core.pool.path(layer)))
        except (errors.Corrupt, errors.ImageRefused) as error:
            return LayerCheck(depth, count, None, error.problem)

    def _mend(self, volume: model.Volume, found: LayerCheck) -> LayerCheck:
        """Repair the head and look again. The volume's mutex is held as long, so that nobody freezes or opens it."""
        core = self._core
        name = names.volume(volume.environment, volume.id)
        head = volume.head_layer
        assert head is not None
        with core.locks.holding(volume.uid):
            layer = layers.get(core.catalog.reader(), head)
            if layer.state is not model.LayerState.HEAD or not self._reading.is_read_once(head):
                raise errors.WrongState(
                    name=name, state="in use by another call", method="CheckVolume", allowed="used by none"
                )
            try:
                fixed = repair.repair(core.pool.path(head), leaks_only=False)
            except errors.Corrupt as error:
                return dataclasses.replace(found, problem=error.problem)
        return dataclasses.replace(
            self._look(found.depth, found.layers, head),
            leaks_fixed=fixed.leaks_fixed,
            corruptions_fixed=fixed.corruptions_fixed,
        )
