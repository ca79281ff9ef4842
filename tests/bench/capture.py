"""Rapid CreateSnapshot by RPC, durable, of a detached volume: does it cost more when the volume is large and full?"""

import os
import pathlib
import subprocess
import time
from collections.abc import Iterator

from snapd import units
from snapd.catalog import db, environments, volumes
from snapd.v1 import environment_service_pb2, snapshot_service_pb2, volume_service_pb2
from tests.bench import figures, images
from tests.integration import running

RUNS = 7

_CAPTURE = "rapid snapshot, 1 TiB all mapped"


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty and on the disk that is measured."""
    runs = 3 if quick else RUNS
    daemon = running.Daemon(folder / "state")
    daemon.start()
    try:
        with daemon.client() as client:
            _create_volumes(client, runs)
        daemon.stop()
        mapped = folder / "mapped.qcow2"
        images.make_mapped(mapped, units.TIB, units.TIB)
        for run in range(runs):
            head = head_of(daemon.state_dir, f"big-{run}")
            subprocess.run(["cp", "--sparse=always", mapped, head], check=True)
        os.sync()
        daemon.start()
        with daemon.client() as client:
            compared = list(_compare(client, folder, runs))
        daemon.stop()
    finally:
        daemon.kill()
    yield from compared
    ours = compared[0].ours
    internal = _internal_snapshot(mapped)
    yield figures.Figure(_CAPTURE, ours, "qemu-img snapshot -c of the same image", internal, "ms", 0.001)


def _create_volumes(client: running.Client, runs: int) -> None:
    client.environments.CreateEnvironment(environment_service_pb2.CreateEnvironmentRequest(environment_id="bench"))
    for run in range(runs):
        for name, size in ((f"small-{run}", units.GIB), (f"big-{run}", units.TIB)):
            volume = volume_service_pb2.Volume(role=volume_service_pb2.Volume.ROLE_DATA, size_bytes=size)
            client.volumes.CreateVolume(
                volume_service_pb2.CreateVolumeRequest(parent="environments/bench", volume_id=name, volume=volume)
            )


def head_of(state_dir: pathlib.Path, volume_id: str) -> pathlib.Path:
    """Return the file of a volume's head, of a daemon that doesn't run."""
    catalog = db.Catalog(state_dir / "catalog.sqlite3")
    try:
        environment = environments.find(catalog.reader(), "bench")
        assert environment is not None
        volume = volumes.find(catalog.reader(), environment.uid, volume_id)
        assert volume is not None
        head = volume.head_layer
        assert head is not None
    finally:
        catalog.close()
    return state_dir / "pool" / head[:2] / f"{head}.qcow2"


def _compare(client: running.Client, folder: pathlib.Path, runs: int) -> Iterator[figures.Figure]:
    def snapshot(volume_id: str, run: int) -> float:
        request = snapshot_service_pb2.CreateSnapshotRequest(
            parent="environments/bench",
            snapshot_id=f"of-{volume_id}-{run}",
            snapshot=snapshot_service_pb2.Snapshot(source_volume=f"environments/bench/volumes/{volume_id}"),
            rapid=True,
        )
        begin = time.perf_counter()
        answer = client.snapshots.CreateSnapshot(request)
        taken = time.perf_counter() - begin
        assert answer.snapshot.state == snapshot_service_pb2.Snapshot.STATE_COMPLETED
        return taken * 1000

    warm_up = volume_service_pb2.Volume(role=volume_service_pb2.Volume.ROLE_DATA, size_bytes=units.GIB)
    client.volumes.CreateVolume(
        volume_service_pb2.CreateVolumeRequest(parent="environments/bench", volume_id="warm", volume=warm_up)
    )
    for run in range(3):
        snapshot("warm", run)
    small, big, bare = figures.alternate(
        runs,
        lambda run: snapshot(f"small-{run}", run),
        lambda run: snapshot(f"big-{run}", run),
        lambda run: _bare_files(folder, run),
    )
    yield figures.Figure(
        _CAPTURE,
        figures.median(big),
        "the same of an empty 1 GiB volume",
        figures.median(small),
        "ms",
        1.5,
    )
    yield figures.Figure(
        _CAPTURE,
        figures.median(big),
        "its files written and fsynced, no daemon",
        figures.median(bare),
        "ms",
        3.0,
    )


def _bare_files(folder: pathlib.Path, run: int) -> float:
    """Write what a capture writes: an overlay, published, and two commits in a log; return the milliseconds."""
    overlay = bytes(256 * units.KIB)
    log = os.open(folder / "bare.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    place = folder / "bare"
    place.mkdir(exist_ok=True)
    directory = os.open(place, os.O_RDONLY)
    try:
        begin = time.perf_counter()
        os.write(log, bytes(16 * units.KIB))
        os.fsync(log)
        fd = os.open(place / "overlay.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, overlay)
        os.fsync(fd)
        os.close(fd)
        os.rename(place / "overlay.tmp", place / f"overlay-{run}")
        os.fsync(directory)
        os.write(log, bytes(16 * units.KIB))
        os.fsync(log)
        return (time.perf_counter() - begin) * 1000
    finally:
        os.close(directory)
        os.close(log)


def _internal_snapshot(mapped: pathlib.Path) -> float:
    """Take an internal snapshot of the image, once, since it takes many seconds; return the milliseconds."""
    begin = time.perf_counter()
    subprocess.run(["qemu-img", "snapshot", "-c", "one", mapped], check=True)
    return (time.perf_counter() - begin) * 1000
