"""Bring a manifest back as the contents of a fresh image, in guest order, decompressing ahead on some threads."""

from snapd import units
from snapd.archive import manifest as manifests
from snapd.copier import control as controls
from snapd.copier import inflight
from snapd.qcow2 import writer

_PIECE = 16 * units.MIB


def restore(manifest: manifests.Manifest, target: writer.Writer, threads: int, control: controls.Control) -> None:
    """Write every block that isn't zero into an empty image of the manifest's size, and flush it.

    Raises control.Stopped, errors.Corrupt, errors.ArchiveUnreachable.
    """
    control.begin("RESTORING", manifest.size_bytes)
    step = max(1, _PIECE // manifest.block_size)

    def read(first: int) -> list[tuple[int, bytes]]:
        return list(manifest.read_blocks(first, min(step, manifest.blocks - first)))

    for position, found in enumerate(inflight.ordered(read, range(0, manifest.blocks, step), threads, control)):
        for number, data in found:
            target.write(number * manifest.block_size, data)
        begin = position * step * manifest.block_size
        control.advance(min(step * manifest.block_size, manifest.size_bytes - begin))
    control.begin("FLUSHING")
    target.flush()
