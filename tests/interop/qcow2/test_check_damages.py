"""Images damaged in one place each: what qemu-img check counts, and what we count."""

import dataclasses
import json
import os
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from snapd.qcow2.checking import check
from snapd.qcow2.format import header

Qemu = Any  # the fixture's class, which tests can't import

CLUSTER = 65536
COPIED = 1 << 63
COMPRESSED = 1 << 62
FAR = 1 << 40
"""An offset past the end of every image here."""


class Patient:
    """An image of sixteen data clusters in a row, a compressed one and zero-allocated ones, with a snapshot or not."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.header = header.read(file.fileno(), path.stat().st_size)
        self.l1 = self.header.l1_offset
        self.table = self.header.refcount_table_offset
        self.block = self.word(self.table)
        self.l2 = self.offset(self.l1)
        self.data = self.offset(self.l2)

    @property
    def end(self) -> int:
        return self.path.stat().st_size

    def word(self, at: int) -> int:
        return int.from_bytes(self.read(at, 8))

    def read(self, at: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), length, at)

    def offset(self, at: int) -> int:
        return self.word(at) & (1 << 56) - 512

    def write(self, at: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    def put(self, at: int, word: int) -> None:
        self.write(at, word.to_bytes(8))

    def refcount(self, offset: int, value: int) -> None:
        """Set the refcount of the cluster at an offset."""
        self.write(self.block + 2 * (offset // CLUSTER), value.to_bytes(2))


@dataclasses.dataclass(frozen=True)
class Damage:
    """What is done to the patient, and the (leaks, corruptions) that come of it."""

    name: str
    do: Callable[[Patient], None]
    qemu: tuple[int, int]
    ours: tuple[int, int] | None = None
    """Where we are stricter."""
    snapshot: bool = False


def leak(image: Patient) -> None:
    """Have a cluster behind everything that nothing refers to."""
    image.refcount(image.end, 1)
    image.write(image.end, bytes(CLUSTER))


def name_block_twice(image: Patient) -> None:
    """Have the refcount table name one block twice."""
    image.put(image.table + 8, image.block)


def share_data(image: Patient) -> None:
    """Have two guest clusters share one, as the refcounts allow for."""
    entry = image.data
    image.put(image.l2, entry)
    image.put(image.l2 + 8, entry)
    image.refcount(image.data, 2)


def overlap_quietly(image: Patient) -> None:
    """Have a guest cluster lie on the refcount table, as the refcounts allow for."""
    image.put(image.l2, image.table)
    image.refcount(image.table, 2)


DAMAGES = [
    Damage("a leak behind everything", leak, (1, 0)),
    Damage("a refcount too high", lambda image: image.refcount(image.data, 7), (1, 1)),
    Damage("a refcount of 0", lambda image: image.refcount(image.data, 0), (0, 2)),
    Damage("a refcount of an L2 table of 0", lambda image: image.refcount(image.l2, 0), (0, 2)),
    Damage("a refcount of the header of 0", lambda image: image.refcount(0, 0), (0, 1)),
    Damage("a refcount far too high", lambda image: image.refcount(image.data, 0xFFFF), (1, 1)),
    Damage("no refcount block", lambda image: image.put(image.table, 0), (0, 42)),
    Damage("a refcount block past the end", lambda image: image.put(image.table, FAR), (0, 43)),
    Damage("a spare refcount block past the end", lambda image: image.put(image.table + 8, FAR), (0, 1)),
    Damage("reserved bits of a refcount block", lambda image: image.put(image.table, image.block | 8), (1, 1)),
    Damage("a refcount block that counts twice", name_block_twice, (0, 2)),
    Damage("a refcount block on the L1 table", lambda image: image.put(image.table + 8, image.l1), (0, 2)),
    Damage("an L2 entry that is misaligned", lambda image: image.put(image.l2, image.data + 512 | COPIED), (0, 2)),
    Damage("an L2 entry past the end", lambda image: image.put(image.l2, FAR | COPIED), (1, 2)),
    Damage("an L2 entry near 2**56", lambda image: image.put(image.l2, (1 << 56) - CLUSTER | COPIED), (1, 2)),
    Damage("an L2 entry with reserved bits", lambda image: image.put(image.l2, image.data | COPIED | 1 << 57), (0, 1)),
    Damage("an L2 entry with a flag and no place", lambda image: image.put(image.l2, COPIED), (1, 0), (1, 1)),
    Damage("an L2 entry on the L1 table", lambda image: image.put(image.l2, image.l1 | COPIED), (1, 1)),
    Damage("an L2 entry on its own table", lambda image: image.put(image.l2, image.l2 | COPIED), (1, 1)),
    Damage("an L2 entry on the refcount block", lambda image: image.put(image.l2, image.block | COPIED), (1, 2)),
    Damage("an overlap that the refcounts allow for", overlap_quietly, (1, 0), (1, 1)),
    Damage("two L2 entries that share a cluster", lambda image: image.put(image.l2 + 8, image.data | COPIED), (1, 1)),
    Damage("two that share one of refcount 2", share_data, (1, 0)),
    Damage("an L2 entry without its flag", lambda image: image.put(image.l2, image.data), (0, 1)),
    Damage("an L1 entry without its flag", lambda image: image.put(image.l1, image.l2), (0, 1)),
    Damage("an L1 entry that is misaligned", lambda image: image.put(image.l1, image.l2 + 512 | COPIED), (16, 129)),
    Damage("an L1 entry with reserved bits", lambda image: image.put(image.l1, image.l2 | COPIED | 1 << 60), (0, 1)),
    Damage("an L1 entry past the end", lambda image: image.put(image.l1, FAR | COPIED), (18, 2)),
    Damage("an L1 entry on the header", lambda image: image.put(image.l1, COPIED), (18, 46)),
    Damage("an L1 entry on the L1 table", lambda image: image.put(image.l1, image.l1 | COPIED), (18, 2)),
    Damage("an L1 entry that comes twice", lambda image: image.put(image.l1 + 8, image.l2 | COPIED), (2, 18)),
    Damage(
        "a compressed entry with the flag", lambda image: image.put(image.l2, COMPRESSED | COPIED | image.data), (0, 1)
    ),
    Damage("a compressed entry past the end", lambda image: image.put(image.l2, COMPRESSED | FAR), (1, 1)),
    Damage("a snapshot's refcounts too low", lambda image: image.refcount(image.data, 1), (0, 2), snapshot=True),
    Damage("a snapshot's flag", lambda image: image.put(image.l2, image.data | COPIED), (0, 1), snapshot=True),
    Damage(
        "a snapshot's L1 table misaligned",
        lambda image: image.put(image.header.snapshots_offset, 512),
        (21, 1),
        snapshot=True,
    ),
    Damage(
        "a snapshot's L1 table past the end",
        lambda image: image.put(image.header.snapshots_offset, FAR),
        (21, 1),
        snapshot=True,
    ),
    Damage(
        "a snapshot's L1 table too large",
        lambda image: image.write(image.header.snapshots_offset + 8, b"\x7f"),
        (21, 1),
        snapshot=True,
    ),
    Damage(
        "a snapshot without its extra data",
        lambda image: image.write(image.header.snapshots_offset + 36, bytes(4)),
        (0, 1),
        snapshot=True,
    ),
]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, bytes]:
    """Return the bytes of the image without and with a snapshot."""
    path = tmp_path_factory.mktemp("damages") / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1G"], check=True)
    writes = ("write -P 1 0 1M", "write -c -P 2 2M 64k", "write -z 512k 128k", "write -P 3 600M 64k")
    commands = [part for write in writes for part in ("-c", write)]
    subprocess.run(["qemu-io", "-f", "qcow2", *commands, path], check=True, capture_output=True)
    plain = path.read_bytes()
    subprocess.run(["qemu-img", "snapshot", "-c", "one", path], check=True)
    return {False: plain, True: path.read_bytes()}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_a_damage_is_counted_as_stated(
    tmp_path: pathlib.Path, qemu: Qemu, originals: dict[bool, bytes], damage: Damage
) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(originals[damage.snapshot])
    damage.do(Patient(path))
    report = qemu.check(path)
    assert (report.get("leaks", 0), report.get("corruptions", 0)) == damage.qemu
    found = check.check(path)
    assert (found.leaks, found.corruptions) == (damage.ours or damage.qemu)
    assert found.image_end_bytes == report["image-end-offset"]


def test_refcounts_that_cannot_be_read_are_no_verdict(tmp_path: pathlib.Path, originals: dict[bool, bytes]) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(originals[False])
    image = Patient(path)
    image.put(image.table, image.block + 512)
    done = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", "--output=json", path], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    report = json.loads(done.stdout)
    found = check.check(path)
    assert (found.corruptions, found.check_errors) == (report["corruptions"], report["check-errors"])
    assert not found.clean
