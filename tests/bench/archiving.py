"""A regular snapshot of a real disk, timed to the proven COMPLETED, and the memory that it takes."""

import concurrent.futures
import os
import pathlib
import time
from collections.abc import Iterator

import blake3
import zstandard

from snapd import units
from snapd.client import connection, upload, waiting
from snapd.v1 import environment_service_pb2, snapshot_service_pb2, volume_service_pb2
from tests.bench import disks, figures
from tests.integration import running

DISK_BYTES = 2 * units.GIB
DATA_BYTES = units.GIB
BLOCK = 256 * units.KIB
THREADS = 2
MEMORY_GOAL = 256 * units.MIB


def measure(folder: pathlib.Path, *, quick: bool) -> Iterator[figures.Figure]:
    """Yield the figures; folder is empty and on the disk that is measured."""
    disk = folder / "disk.raw"
    data_bytes = disks.write_files(disk, DATA_BYTES // (8 if quick else 1), DISK_BYTES)
    daemon = running.Daemon(folder / "state")
    daemon.start()
    try:
        with connection.connect(str(daemon.socket)) as client:
            _import(client, disk)
            base = _peak_memory(daemon.process.pid)
            taken = _snapshot(client, "first")
            peak = _peak_memory(daemon.process.pid)
            second = _snapshot(client, "second")
        daemon.stop()
    finally:
        daemon.kill()
    bare = figures.median([_bare_pipeline(disk, data_bytes) for _ in range(3)])
    yield figures.Figure(
        f"first archive of {units.format_size(data_bytes)} of files, proven",
        taken,
        "reading, hashing, compressing alone",
        bare,
        "s",
        None,
    )
    yield figures.Figure("archive of an unchanged disk", second, "its first archive", taken, "s", 0.05)
    yield figures.Figure(
        "peak memory of the daemon while archiving",
        peak / units.MIB,
        "the goal (idle: " + units.format_size(base) + ")",
        MEMORY_GOAL / units.MIB,
        "MiB",
        1.0,
    )


def _import(client: connection.Client, disk: pathlib.Path) -> None:
    client.environments.CreateEnvironment(environment_service_pb2.CreateEnvironmentRequest(environment_id="bench"))
    start = volume_service_pb2.ImportVolumeRequest.Start(
        parent="environments/bench",
        volume_id="disk",
        volume=volume_service_pb2.Volume(role=volume_service_pb2.Volume.ROLE_ROOT),
        format=volume_service_pb2.IMAGE_FORMAT_RAW,
    )
    upload.import_volume(client, disk, start)


def _snapshot(client: connection.Client, snapshot_id: str) -> float:
    """Take a regular snapshot and return the seconds until it was COMPLETED."""
    request = snapshot_service_pb2.CreateSnapshotRequest(
        parent="environments/bench",
        snapshot_id=snapshot_id,
        snapshot=snapshot_service_pb2.Snapshot(source_volume="environments/bench/volumes/disk"),
    )
    begin = time.perf_counter()
    answer = client.snapshots.CreateSnapshot(request)
    waiting.wait(client, answer.operation)
    return time.perf_counter() - begin


def _peak_memory(pid: int) -> int:
    """Return the most resident bytes that a process had since this was last asked."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
    return int(line.split()[1]) * units.KIB


def _bare_pipeline(disk: pathlib.Path, data_bytes: int) -> float:
    """Read, hash and compress the disk's data on all cores with nothing around it; return the seconds."""
    fd = os.open(disk, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    blocks = data_bytes // BLOCK

    def work(thread: int) -> int:
        compressor = zstandard.ZstdCompressor(level=1)
        key = bytes(32)
        size = 0
        for number in range(thread, blocks, THREADS):
            data = os.pread(fd, BLOCK, number * BLOCK)
            blake3.blake3(data, key=key).digest()
            size += len(compressor.compress(data))
        return size

    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as executor:
        assert sum(executor.map(work, range(THREADS))) > 0
    taken = time.perf_counter() - begin
    os.close(fd)
    return taken
