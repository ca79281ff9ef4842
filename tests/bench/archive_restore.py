"""A volume out of the archive until it is READY: against `restic restore`, and QEMU's conversion of a compressed image.

The snapshot's layer has left primary storage before each run, and every archive has left the page cache. What each
brings back is compared with the disk, byte by byte, in the first run. Everybody ends durable.
"""

import pathlib
import shutil
import subprocess
from collections.abc import Iterator

from tests.bench import disks, figures, peers, rig, timing

RUNS = 3


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty and on the disk that is measured."""
    disk = folder / "disk.raw"
    disks.make(disk, quick=quick)
    qemu, restic = peers.Qemu(folder), peers.Restic(folder)
    restores = [lambda run: _qemu(qemu, disk, folder / "back.qcow2", run)]
    against = [("qemu-img convert to a plain image", 1.0)]
    qemu.archive(disk)
    if shutil.which("restic") is not None:
        restic.make()
        restic.archive(disk)
        restores.append(lambda run: _restic(restic, disk, folder / "back", run))
        against.append(("restic restore", 1 / 1.5))
    with rig.running_on(folder / "state") as daemon:
        daemon.import_disk("bench", disk)
        daemon.snapshot("bench", "first")
        daemon.delete_volume("bench", "disk")
        ours, *theirs = figures.alternate(1 if quick else RUNS, lambda run: _restore(daemon, disk, run), *restores)
    for (name, goal), samples in zip(against, theirs, strict=True):
        yield figures.compared("restore of a first archive, until READY", ours, name, samples, goal)


def _restore(daemon: rig.Rig, disk: pathlib.Path, run: int) -> timing.Sample:
    # Nothing is on primary storage any more: what comes next comes from the archive.
    daemon.wait_for_layers(0)
    daemon.forget()
    sample = daemon.restore("bench", "first", f"back-{run}")
    if run == 0:
        # The new head, empty, and what it stands on: the layer that was restored.
        _require_disk(max(daemon.pool_files(), key=lambda path: path.stat().st_blocks), "qcow2", disk)
    daemon.delete_volume("bench", f"back-{run}")
    return sample


def _qemu(qemu: peers.Qemu, disk: pathlib.Path, target: pathlib.Path, run: int) -> timing.Sample:
    disks.forget(*qemu.paths())
    sample = qemu.restore(target)
    if run == 0:
        _require_disk(target, "qcow2", disk)
    target.unlink()
    return sample


def _restic(restic: peers.Restic, disk: pathlib.Path, target: pathlib.Path, run: int) -> timing.Sample:
    disks.forget(*restic.paths())
    sample = restic.restore(target)
    if run == 0:
        _require_disk(target / disk.relative_to("/"), "raw", disk)
    shutil.rmtree(target)
    return sample


def _require_disk(found: pathlib.Path, image_format: str, disk: pathlib.Path) -> None:
    """Require that an image, which nobody writes, holds the disk; both leave the page cache again."""
    subprocess.run(
        ["qemu-img", "compare", "-q", "-U", "-f", image_format, "-F", "raw", found, disk],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    disks.forget(found, disk)
