"""Bring a manifest back as the contents of a fresh image, in guest order, decompressing ahead on some threads."""

from collections.abc import Iterator

from snapd import units
from snapd.archive import manifest as manifests
from snapd.copier import control as controls
from snapd.copier import inflight
from snapd.qcow2.writing import writer

_PIECE = 16 * units.MIB


def _pieces(manifest: manifests.Manifest, step: int) -> Iterator[int]:
    """Yield the first blocks of the pieces of `step` blocks that hold anything: of a disk of zeros there are none."""
    end = 0
    for low, high in manifest.held(0, manifest.blocks):
        for first in range(max(end, units.round_down(low, step)), high, step):
            yield first
            end = first + step


def restore(manifest: manifests.Manifest, target: writer.Writer, threads: int, control: controls.Control) -> None:
    """Write every block that isn't zero into an empty image of the manifest's size, and flush it.

    Raises control.Stopped, errors.Corrupt, errors.ArchiveUnreachable.
    """
    control.begin("RESTORING", manifest.size_bytes)
    step = max(1, _PIECE // manifest.block_size)
    buffers = inflight.Buffers(step * manifest.block_size)

    def read(first: int) -> tuple[int, list[tuple[int, int]], memoryview]:
        buffer = buffers.take()
        count = min(step, manifest.blocks - first)
        return first, manifest.read_into(first, buffer[: count * manifest.block_size]), buffer

    done = 0
    for first, runs, buffer in inflight.ordered(read, _pieces(manifest, step), threads, control):
        start = first * manifest.block_size
        for low, high in runs:
            target.write_direct(start + low, buffer[low:high])
        buffers.give_back(buffer)
        end = min((first + step) * manifest.block_size, manifest.size_bytes)
        control.advance(end - done)
        done = end
    control.advance(manifest.size_bytes - done)
    control.go_on_to("FLUSHING")
    target.flush()
