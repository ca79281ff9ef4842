"""What a process takes of the host: memory, threads, files. A daemon that lives long must not take more and more."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Final

from snapd import units

_GROWTH: Final = 1.3
"""Memory may become so many times what it was once warm; allocators give back late, and never all."""
_SLACK_BYTES: Final = 32 * units.MIB
_SLACK_COUNT: Final = 8
"""Threads and files that pools of them may have more at one moment than at another."""
_SLACK_LAYERS: Final = 64
"""Far less than a turn's operations would leave if each left one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What a process takes at one moment."""

    resident_bytes: int
    threads: int
    files: int
    """Open ones, without the layers."""
    layers: int
    """Layers' files that are open: each volume that is written has its head open, with all that this stands on."""


def sample(pid: int) -> Sample:
    """Look at a process."""
    folder = pathlib.Path("/proc", str(pid))
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    names = os.listdir(folder / "fd")
    layers = sum(_is_layer(folder / "fd" / name) for name in names)
    return Sample(
        resident_bytes=int(fields["VmRSS"].split()[0]) * units.KIB,
        threads=int(fields["Threads"]),
        files=len(names) - layers,
        layers=layers,
    )


def _is_layer(link: pathlib.Path) -> bool:
    try:
        # What is open though it was removed is counted with the others.
        return os.readlink(link).endswith(".qcow2")
    except FileNotFoundError:
        return False


def require_steady(samples: Sequence[Sample]) -> None:
    """Require that nothing grows from the first of some samples of one process, taken when it was warm, to the last.

    Raises AssertionError.
    """
    first, last = samples[0], samples[-1]
    assert last.resident_bytes <= first.resident_bytes * _GROWTH + _SLACK_BYTES, f"memory grows: {samples}"
    assert last.threads <= first.threads + _SLACK_COUNT, f"threads become more: {samples}"
    assert last.files <= first.files + _SLACK_COUNT, f"files stay open: {samples}"
    assert last.layers <= first.layers + _SLACK_LAYERS, f"layers stay open: {samples}"
