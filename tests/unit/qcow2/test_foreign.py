"""Foreign formats: each is known by its signature, wherever that lies, and nothing else is taken for one."""

import pathlib
import random
import subprocess
from collections.abc import Callable

import pytest

from snapd import errors, units
from snapd.qcow2.checking import vet
from snapd.qcow2.format import foreign
from snapd.qcow2.reading import image

SIZE = 4 * units.MIB


def reading(data: bytes) -> Callable[[int, int], bytes]:
    return lambda length, offset: data[offset : offset + length]


def name_of(data: bytes) -> str | None:
    return foreign.look(reading(data), len(data))


def planted(*parts: tuple[int, bytes], size: int = 64 * units.KIB) -> bytes:
    data = bytearray(size)
    for offset, part in parts:
        start = offset % size
        data[start : start + len(part)] = part
    return bytes(data)


@pytest.mark.parametrize(
    ("qemu_format", "options", "name"),
    [
        ("qcow", "", "qcow"),
        ("qcow2", "", "qcow2"),
        ("qcow2", "compat=0.10", "qcow2"),
        ("qed", "", "QED"),
        ("vmdk", "", "VMDK"),
        ("vmdk", "subformat=streamOptimized", "VMDK"),
        ("vmdk", "subformat=monolithicFlat", "VMDK"),
        ("vmdk", "subformat=twoGbMaxExtentSparse", "VMDK"),
        ("vmdk", "subformat=twoGbMaxExtentFlat", "VMDK"),
        ("vpc", "", "VHD"),
        ("vpc", "subformat=fixed", "VHD"),
        ("vhdx", "", "VHDX"),
        ("vhdx", "subformat=fixed", "VHDX"),
        ("vdi", "", "VDI"),
        ("vdi", "static=on", "VDI"),
        ("parallels", "", "Parallels"),
    ],
)
def test_what_qemu_makes_is_recognised_and_refused_under_either_label(
    tmp_path: pathlib.Path, qemu_format: str, options: str, name: str
) -> None:
    path = tmp_path / "disk"
    flags = ["-o", options] if options else []
    subprocess.run(["qemu-img", "create", "-q", "-f", qemu_format, *flags, path, str(SIZE)], check=True)
    data = path.read_bytes()
    assert name_of(data) == name
    with pytest.raises(errors.ImageRefused, match=f"labelled raw and has the signature of {name}"):
        vet.require_raw(reading(data), len(data))
    if name != "qcow2":
        with pytest.raises(errors.ImageRefused, match=f"no qcow2 image: it has the signature of {name}|version 1"):
            image.Image.open(path)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (planted((0, b"COWD")), "VMDK"),
        (planted((0, b"\xbe\xba\xfe\xca\0\0\0\0")), "VMDK"),
        (b"# Disk DescriptorFile\nversion=1\n", "VMDK"),
        (b"# some words\r\n\r\n  # more\r\nVersion = 3\n", "VMDK"),
        (planted((-512, b"koly")), "DMG"),
        (planted((0, b"LUKS\xba\xbe\0\1")), "LUKS"),
        (planted((0, b"LUKS\xba\xbe\0\2")), "LUKS"),
        (planted((0, b"WithouFreSpacExt")), "Parallels"),
        (planted((0, b"Bochs Virtual HD Image")), "Bochs"),
        (planted((0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop")), "cloop"),
        (planted((32_769, b"CD001")), "ISO 9660"),
        (planted((0, b"QFI\xfb\0\0\0\3"), (32_769, b"CD001")), "ISO 9660 and qcow2"),
        (planted((0, b"QFI\xfb\0\0\0\3"), (-512, b"conectix")), "qcow2 and VHD"),
        (planted((0, b"KDMV"), (32_769, b"CD001"), (-512, b"koly")), "DMG and ISO 9660 and VMDK"),
        (planted((0, b"conectix"), (-512, b"conectix")), "VHD"),
        (b"conectix".ljust(512, b"\0"), "VHD"),
        (b"", None),
        (b"QFI", None),
        (b"koly", None),
        (bytes(64 * units.KIB), None),
        (planted((510, b"\x55\xaa"), (512, b"EFI PART")), None),
        (planted((0, b"# a script\necho version=1\n")), None),
        (planted((1, b"QFI\xfb\0\0\0\3"), (32_768, b"CD001"), (-511, b"conectix")), None),
    ],
)
def test_signatures_count_where_their_formats_have_them(data: bytes, name: str | None) -> None:
    assert name_of(data) == name


def test_a_raw_disk_of_anything_else_is_let_in() -> None:
    for seed in range(50):
        data = random.Random(seed).randbytes(66 * units.KIB)
        vet.require_raw(reading(data), len(data))
