"""Being strict costs nobody anything: whatever QEMU itself writes is opened, and without a backing file imported."""

import itertools
import pathlib
import signal
import subprocess

import pytest

from snapd import errors, units
from snapd.qcow2.checking import vet
from snapd.qcow2.format import layout
from snapd.qcow2.reading import image

SIZE = 6 * units.MIB

OPTIONS = [
    *(f"cluster_size={1 << bits}" for bits in (9, 10, 12, 14, 16, 18, 21)),
    *(f"refcount_bits={1 << order}" for order in range(7)),
    *(
        f"compat={compat},{rest}"
        for compat, rest in itertools.product(("0.10", "1.1"), ("cluster_size=512", "preallocation=metadata"))
    ),
    *(f"cluster_size={size},extended_l2=on" for size in ("16k", "64k", "2M")),
    *(f"compression_type={kind}" for kind in ("zlib", "zstd")),
    *(f"preallocation={kind}" for kind in ("off", "metadata", "falloc", "full")),
    "lazy_refcounts=on",
    "lazy_refcounts=on,refcount_bits=64,cluster_size=512",
]


def qemu_img(*arguments: str | pathlib.Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def write(path: pathlib.Path, *commands: str) -> None:
    flags = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", *flags, str(path)], check=True, capture_output=True)


@pytest.mark.parametrize("options", OPTIONS)
def test_an_image_is_opened_and_imported_whatever_its_options(tmp_path: pathlib.Path, options: str) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, str(SIZE))
    assert vet.vet_import(path).size_bytes == SIZE
    write(path, "write 1M 100k", "write -z 2M 64k", "discard 1M 64k")
    assert vet.vet_import(path).size_bytes == SIZE


@pytest.mark.parametrize("size", ["0", "1", "512", "1000", "512M", "3T", "64T"])
def test_a_disk_of_any_size_is_opened_and_imported(tmp_path: pathlib.Path, size: str) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", "qcow2", path, size)
    with image.Image.open(path) as opened:
        assert vet.vet_import(path) == opened.header


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_an_image_with_a_history_is_opened_and_imported(tmp_path: pathlib.Path, compat: str) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"compat={compat},cluster_size=512", path, str(SIZE))
    write(path, "write 0 1M")
    for number in range(3):
        qemu_img("snapshot", "-c", f"state {number}", path)
        write(path, f"write {number}M 300k")
    if compat == "1.1":
        qemu_img("bitmap", "--add", "-g", "4k", path, "first")
        qemu_img("bitmap", "--add", "--disable", path, "second")
        qemu_img("resize", "-q", path, "12M")
    assert vet.vet_import(path).snapshot_count == 3
    for number in (1, 0, 2):
        qemu_img("snapshot", "-d", f"state {number}", path)
    if compat == "1.1":
        qemu_img("resize", "-q", "--shrink", path, "10M")
        qemu_img("amend", "-f", "qcow2", "-o", "lazy_refcounts=on", path)
        assert vet.vet_import(path).bitmaps[0] == 2
    assert vet.vet_import(path).snapshot_count == 0


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster_size", ["512", "64k", "2M"])
@pytest.mark.parametrize("extended_l2", ["on", "off"])
def test_a_compressed_image_is_imported(
    tmp_path: pathlib.Path, compression: str, cluster_size: str, extended_l2: str
) -> None:
    raw, path = tmp_path / "disk.raw", tmp_path / "disk"
    raw.write_bytes(bytes(range(256)) * 4 * 4096)
    options = f"compression_type={compression},cluster_size={cluster_size}"
    if cluster_size != "512":
        options += f",extended_l2={extended_l2}"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    assert vet.vet_import(path).size_bytes == raw.stat().st_size


@pytest.mark.parametrize("options", ["lazy_refcounts=on", "lazy_refcounts=on,extended_l2=on", "cluster_size=4k"])
def test_an_image_whose_writer_was_killed_is_imported(tmp_path: pathlib.Path, options: str) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, str(SIZE))
    commands = ["-c", "write 0 1M", "-c", "write 3M 64k", "-c", "flush", "-c", "sigraise 9"]
    killed = subprocess.run(["qemu-io", "-f", "qcow2", *commands, path], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    with image.Image.open(path) as opened:
        assert bool(opened.header.incompatible & layout.INCOMPATIBLE_DIRTY) == ("lazy" in options)
    assert vet.vet_import(path).size_bytes == SIZE


@pytest.mark.parametrize("backing_format", ["qcow2", "raw"])
@pytest.mark.parametrize(
    "name", ["base", "../{folder}/base", "{path}/base", "json:{{}}", "nbd:localhost:1", "b\u00e4se"]
)
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_an_overlay_is_opened_and_its_backing_name_shown_but_not_imported(
    tmp_path: pathlib.Path, name: str, backing_format: str, compat: str
) -> None:
    path, name = tmp_path / "disk", name.format(folder=tmp_path.name, path=tmp_path)
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"compat={compat}", path, "1M")
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", backing_format, "-b", name, path)
    with image.Image.open(path) as opened:
        assert (opened.header.backing_name, opened.header.backing_format) == (name, backing_format)
    with pytest.raises(errors.ImageRefused, match="stands on a backing file"):
        vet.vet_import(path)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "", path)
    assert vet.vet_import(path).backing_name is None
