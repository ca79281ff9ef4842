"""Names in headers and names of files: shown, compared, never followed.

Cases 5, 33 to 37 and 40: images that are opened, since QEMU makes such ones too, and that no import lets in.
"""

import os
import pathlib
import stat

import pytest

from snapd import errors, units
from snapd.qcow2.checking import vet
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, writer
from tests.hostile import trial
from tests.hostile.surgery import NOISE, SIZE, Patient

BACKING_NAMES = {
    33: (b"/etc/passwd", b"/dev/zero", b"//host/share"),
    34: (
        b'json:{"driver":"file","filename":"/etc/passwd"}',
        b"nbd:localhost:10809",
        b"nbd+unix:///?socket=/run/x",
        b"http://169.254.169.254/latest/meta-data",
        b"ssh://root@localhost/etc/shadow",
        b"fat:rw:/tmp",
    ),
    35: (b"..", b"../../../etc/passwd", b"a/../b", b"b" * 1023),
    37: (b"disk", b"./disk"),
}


@pytest.mark.parametrize(
    "name", [name for names in BACKING_NAMES.values() for name in names], ids=lambda name: name[:40]
)
def test_a_backing_name_is_shown_and_nothing_is_opened_for_it(
    worker: trial.Worker, patient: Patient, name: bytes
) -> None:
    patient.set_backing(name)
    endings = worker.run(patient.path, "open", "read", "check", "import")
    assert endings["open"].result == name.decode()
    # What the file itself doesn't hold is absent: whoever reads an overlay gives it what lies below.
    assert (endings["read"].error, endings["check"].error) == ("", "")
    assert endings["import"].error == "ImageRefused"
    assert f"it stands on a backing file, {name.decode()[:80]!r}; send it flattened" in endings["import"].message


def test_chains_are_what_the_caller_says_so_that_headers_in_a_circle_harm_nobody(tmp_path: pathlib.Path) -> None:
    for name, backing in (("a", "b"), ("b", "a")):
        create.create(tmp_path / name, size_bytes=SIZE, backing_name=backing)
    with writer.Writer.open(tmp_path / "b") as target:
        target.write(0, NOISE)
    with image.Image.open(tmp_path / "a") as a, image.Image.open(tmp_path / "b") as b:
        assert chain.Chain([a]).block_map(0, SIZE).total() == 0
        buffer = bytearray(len(NOISE))
        chain.Chain([a, b]).read_into(0, memoryview(buffer))
        assert buffer == NOISE
        for name in ("a", "b"):
            with pytest.raises(errors.ImageRefused, match="stands on a backing file"):
                vet.vet_import(tmp_path / name)


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "folder", "socket", "device"])
def test_what_is_no_regular_file_is_refused_at_once(worker: trial.Worker, patient: Patient, kind: str) -> None:
    path = patient.path.with_name("other")
    if kind == "link":
        path.symlink_to(patient.path)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path = pathlib.Path("/dev/zero")
    worker.expect(path, ["open", "read", "check", "import", "merge"], "ImageRefused", "the path is not a regular file")
    assert worker.run(path, "write")["write"].error in ("ImageRefused", "StorageFailed")


def test_a_file_with_another_name_is_read_and_not_imported(worker: trial.Worker, patient: Patient) -> None:
    os.link(patient.path, patient.path.with_name("other"))
    assert worker.run(patient.path, "read")["read"].error == ""
    worker.expect(patient.path, ["import"], "ImageRefused", "the file has several links")


def test_a_file_that_is_swapped_after_it_was_vetted_is_not_what_is_read(
    patient: Patient, tmp_path: pathlib.Path
) -> None:
    create.create(tmp_path / "evil", size_bytes=SIZE, backing_name="/etc/passwd")
    with vet.open_import(patient.path) as vetted:
        os.replace(tmp_path / "evil", patient.path)
        buffer = bytearray(len(NOISE))
        chain.Chain([vetted]).read_into(0, memoryview(buffer))
    assert buffer == NOISE
    with pytest.raises(errors.ImageRefused):
        vet.open_import(patient.path)


def test_a_huge_disk_in_a_tiny_file_costs_what_the_file_is_worth(worker: trial.Worker, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "huge"
    create.create(path, size_bytes=1 << 60, cluster_size=2 * units.MIB)
    # Its L1 table has 16 MiB, of the 32 that are allowed, and is held whole.
    endings = worker.run(path, "open", "read", "check", memory_bytes=128 * units.MIB)
    assert {ending.error for ending in endings.values()} == {""}, endings
