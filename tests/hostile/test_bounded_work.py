"""Files that want much of whoever reads them: little memory and little time is taken, whatever comes of it.

Cases 56 to 58; the worker's limits are the point.
"""

import os
import struct
import zlib

import pytest
import zstandard

from snapd import errors, units
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create
from tests.hostile import surgery, trial
from tests.hostile.surgery import CLUSTER, NOISE, Patient, u64


def bomb_of_deflate(expanded: int) -> bytes:
    """Return a raw deflate stream of that many zeros."""
    packer = zlib.compressobj(9, wbits=-15)
    zeros = bytes(units.MIB)
    return b"".join(packer.compress(zeros) for _ in range(expanded // units.MIB)) + packer.flush()


def zstd_frame(*, declared: int | None, window_log: int | None = None, blocks: int = 1) -> bytes:
    """Return a frame of run-length blocks of 128 KiB zeros each, whatever its header declares."""
    if declared is not None and window_log is None:
        # Single segment: the window is the declared size.
        head = bytes([0b1110_0000]) + struct.pack("<Q", declared)
    elif declared is not None and window_log is not None:
        head = bytes([0b1100_0000, (window_log - 10) << 3]) + struct.pack("<Q", declared)
    else:
        assert window_log is not None
        head = bytes([0, (window_log - 10) << 3])
    run = 128 * units.KIB
    body = b"".join(
        ((run << 3) | 0b010 | (number == blocks - 1)).to_bytes(3, "little") + b"\0" for number in range(blocks)
    )
    return b"\x28\xb5\x2f\xfd" + head + body


def zstd_patient(patient: Patient) -> Patient:
    """Have a patient say that its compressed clusters are zstd."""
    patient.put(72, u64(1 << 3))
    patient.put(104, b"\1")
    return patient


def test_57_a_deflate_bomb_expands_to_one_cluster(worker: trial.Worker, patient: Patient) -> None:
    stream = bomb_of_deflate(60 * units.MIB)
    assert len(stream) <= CLUSTER
    patient.set_compressed(stream)
    endings = worker.run(patient.path, "read", "merge", "import")
    for ending in endings.values():
        assert ending.error in ("", "Corrupt"), ending
    if endings["read"].error == "":
        rest = NOISE[CLUSTER:]
        assert endings["read"].result == f"{len(rest) - rest.count(0)} bytes that aren't zero"


@pytest.mark.parametrize(
    "frame",
    [
        zstd_frame(declared=2**62),
        zstd_frame(declared=2**40, blocks=200),
        zstd_frame(declared=64 * units.GIB, window_log=17, blocks=4_000),
        zstd_frame(declared=None, window_log=31),
        zstd_frame(declared=None, window_log=41),
        zstd_frame(declared=None, window_log=17, blocks=4_000),
        zstandard.ZstdCompressor(level=19).compress(bytes(64 * units.MIB)),
    ],
    ids=[
        "declares 2^62",
        "declares a terabyte",
        "declares more than it has",
        "window of 2 GiB",
        "window of 2 TiB",
        "expands to 500 MiB",
        "expands to 64 MiB",
    ],
)
def test_58_a_zstd_bomb_expands_to_one_cluster_or_not_at_all(
    worker: trial.Worker, patient: Patient, frame: bytes
) -> None:
    zstd_patient(patient).set_compressed(frame[:CLUSTER])
    for ending in worker.run(patient.path, "read", "merge", "import").values():
        assert ending.error in ("", "Corrupt"), ending


def test_58_a_million_empty_frames_are_no_work(worker: trial.Worker, patient: Patient) -> None:
    empty = zstandard.ZstdCompressor().compress(b"")
    zstd_patient(patient).set_compressed((empty * CLUSTER)[:CLUSTER])
    worker.expect(patient.path, ["read", "merge", "import"], "Corrupt", "compressed cluster")


def test_a_sparse_file_of_a_terabyte_is_checked_and_read_like_a_small_one(
    worker: trial.Worker, patient: Patient
) -> None:
    os.truncate(patient.path, units.TIB)
    for name, ending in worker.run(patient.path, "open", "read", "check", "import").items():
        assert ending.error in ("", "ImageRefused"), (name, ending)


def test_a_table_of_four_million_entries_in_a_tiny_file_is_held_whole_and_no_more(
    worker: trial.Worker, patient: Patient
) -> None:
    patient.path.unlink()
    create.create(patient.path, size_bytes=128 * units.GIB, cluster_size=512)
    endings = worker.run(patient.path, "open", "read", "check", memory_bytes=256 * units.MIB)
    assert {ending.error for ending in endings.values()} == {""}, endings


def test_56_a_file_that_becomes_shorter_while_it_is_read_is_damaged_and_not_zeros(patient: Patient) -> None:
    buffer = memoryview(bytearray(len(NOISE)))
    with image.Image.open(patient.path) as opened:
        disk = chain.Chain([opened])
        extents = disk.block_map(0, len(NOISE))
        os.truncate(patient.path, patient.data + CLUSTER)
        with pytest.raises(errors.Corrupt, match=r"cut short|become shorter"):
            disk.read_extents_into(extents, 0, buffer)
    assert buffer[:CLUSTER] == NOISE[:CLUSTER]


@pytest.mark.parametrize("end", ["l1", "l2", "data"])
def test_56_a_file_whose_parts_go_while_it_is_read_is_damaged_and_not_zeros(patient: Patient, end: str) -> None:
    patient.set_compressed(surgery.deflated(NOISE[:CLUSTER]))
    with image.Image.open(patient.path) as opened:
        os.truncate(patient.path, getattr(patient, end))
        with pytest.raises(errors.Corrupt):
            chain.Chain([opened]).read_into(0, memoryview(bytearray(len(NOISE))))
