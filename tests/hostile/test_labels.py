"""Imports whose label is wrong: refused by name, and gone as if never sent. What a guest writes stays data.

Cases 38 and 39.
"""

import pathlib
import random
import subprocess

import pytest

from snapd import errors, fsops, model, units
from snapd.qcow2.writing import create
from tests.hostile import imports
from tests.unit.service import faults
from tests.unit.service import world as worlds

SIZE = units.MIB
NOISE = random.Random(38).randbytes(SIZE)


def planted(image: bytes, *parts: tuple[int, bytes]) -> bytes:
    """Return an image with other bytes at some offsets; negative ones count from its end."""
    changed = bytearray(image)
    for offset, part in parts:
        start = offset % len(image)
        changed[start : start + len(part)] = part
    return bytes(changed)


def made(folder: pathlib.Path, image_format: str, *options: str) -> bytes:
    """Return what qemu-img makes of NOISE."""
    (folder / "disk.raw").write_bytes(NOISE)
    command = ["qemu-img", "convert", "-f", "raw", "-O", image_format, *options, "disk.raw", "disk"]
    subprocess.run(command, check=True, cwd=folder)
    image = (folder / "disk").read_bytes()
    return image.ljust(units.round_up(len(image), units.SECTOR), b"\0")


@pytest.mark.parametrize(
    ("image_format", "options", "name"),
    [
        ("qcow2", [], "qcow2"),
        ("qcow", [], "qcow"),
        ("vmdk", [], "VMDK"),
        ("vmdk", ["-o", "subformat=streamOptimized"], "VMDK"),
        ("vpc", ["-o", "subformat=fixed"], "VHD"),
        ("vhdx", [], "VHDX"),
        ("vdi", [], "VDI"),
        ("qed", [], "QED"),
        ("parallels", [], "Parallels"),
    ],
)
def test_another_format_under_the_label_raw_is_refused_by_name_and_leaves_nothing(
    world: worlds.World, tmp_path: pathlib.Path, image_format: str, options: list[str], name: str
) -> None:
    with pytest.raises(errors.ImageRefused, match=f"labelled raw and has the signature of {name};"):
        imports.send(world, made(tmp_path, image_format, *options), imports.RAW)
    imports.assert_nothing_is_left(world)


@pytest.mark.parametrize(
    ("offset", "magic", "name"),
    [
        (0, b"QFI\xfb\0\0\0\3", "qcow2"),
        (0, b"# Disk DescriptorFile\nversion=1\nRW 63 FLAT \"/etc/shadow\" 0\n", "VMDK"),
        (0, b"LUKS\xba\xbe\0\1", "LUKS"),
        (32_769, b"CD001", "ISO 9660"),
        (-512, b"conectix", "VHD"),
        (-512, b"koly", "DMG"),
    ],
)  # fmt: skip
def test_a_signature_alone_is_enough_to_refuse_a_raw_disk(
    world: worlds.World, offset: int, magic: bytes, name: str
) -> None:
    with pytest.raises(errors.ImageRefused, match=f"has the signature of {name};.*qemu-img convert -f raw"):
        imports.send(world, planted(NOISE, (offset, magic)), imports.RAW)
    imports.assert_nothing_is_left(world)


@pytest.mark.parametrize("image_format", ["vmdk", "vhdx", "vdi", "qed", "vpc", "parallels", "raw"])
def test_another_format_under_the_label_qcow2_is_refused_by_name_and_leaves_nothing(
    world: worlds.World, tmp_path: pathlib.Path, image_format: str
) -> None:
    names = {"vpc": "the signature of VHD", "parallels": "the signature of Parallels", "raw": "the magic number"}
    wanted = names.get(image_format, f"the signature of {image_format.upper()}")
    with pytest.raises(errors.ImageRefused, match=f"no qcow2 image: .*{wanted}"):
        imports.send(world, made(tmp_path, image_format), imports.QCOW2)
    imports.assert_nothing_is_left(world)


@pytest.mark.parametrize(
    ("offset", "magic", "name"),
    [(32_769, b"CD001", "ISO 9660 and qcow2"), (-512, b"conectix", "qcow2 and VHD"), (-512, b"koly", "DMG and qcow2")],
)
@pytest.mark.parametrize("label", [imports.RAW, imports.QCOW2])
def test_a_polyglot_is_refused_under_either_label(
    world: worlds.World, tmp_path: pathlib.Path, label: model.ImageFormat, offset: int, magic: bytes, name: str
) -> None:
    image = planted(made(tmp_path, "qcow2"), (offset, magic))
    with pytest.raises(errors.ImageRefused, match=f": {name}$|signature of (?:{name}|qcow2);"):
        imports.send(world, image, label)
    imports.assert_nothing_is_left(world)


@pytest.mark.parametrize(("size_bytes", "label"), [(0, "0 bytes"), (65 * units.TIB, "71468255805440 bytes")])
def test_an_image_of_a_disk_that_no_volume_can_be_is_refused(
    world: worlds.World, tmp_path: pathlib.Path, size_bytes: int, label: str
) -> None:
    create.create(tmp_path / "disk", size_bytes=size_bytes, cluster_size=2 * units.MIB)
    with pytest.raises(errors.ImageRefused, match=f"a disk of {label}; a volume has 1 to"):
        imports.send(world, (tmp_path / "disk").read_bytes(), imports.QCOW2)
    imports.assert_nothing_is_left(world)


@pytest.mark.parametrize("label", [imports.RAW, imports.QCOW2])
def test_a_wrong_label_is_refused_as_soon_as_the_beginning_shows_it(
    world: worlds.World, label: model.ImageFormat
) -> None:
    image = planted(NOISE, (32_769, b"CD001"))
    with imports.begin(world, worlds.request("ImportVolume"), image, label) as upload:
        upload.hole(0, 16 * units.KIB)
        upload.data(16 * units.KIB, image[16 * units.KIB : 32 * units.KIB])
        with pytest.raises(errors.ImageRefused, match="signature of ISO 9660"):
            upload.data(32 * units.KIB, image[32 * units.KIB : 48 * units.KIB])
        imports.assert_nothing_is_left(world)
        for late in (upload.flush, upload.finish, lambda: upload.data(48 * units.KIB, NOISE[: 16 * units.KIB])):
            with pytest.raises(errors.WrongState, match="at its end"):
                late()
    with imports.begin(world, worlds.request("ImportVolume"), NOISE, imports.RAW) as upload:
        upload.data(0, NOISE)
        upload.finish()
    assert world.volume_bytes("v") == NOISE


def test_a_label_is_looked_at_also_when_the_last_stream_brings_nothing_new(world: worlds.World) -> None:
    image, request = planted(NOISE, (-512, b"conectix")), worlds.request("ImportVolume")
    with imports.begin(world, request, image, imports.RAW) as upload:
        upload.data(0, image)
        assert upload.flush() == len(image)
    world.restart()
    with (
        imports.begin(world, request, image, imports.RAW, resume_offset=len(image)) as upload,
        pytest.raises(errors.ImageRefused, match="signature of VHD"),
    ):
        upload.finish()
    imports.assert_nothing_is_left(world)


@pytest.mark.parametrize("label", [imports.RAW, imports.QCOW2])
def test_a_refusal_that_is_cut_short_leaves_nothing_after_the_next_start(
    world: worlds.World, tmp_path: pathlib.Path, label: model.ImageFormat
) -> None:
    image = made(tmp_path, "vmdk")
    with (
        faults.observing(faults.fail(5, "unlink", under=str(world.settings.pool_path))),
        pytest.raises((errors.StorageFailed, errors.ImageRefused)),
    ):
        imports.send(world, image, label)
    with pytest.raises(errors.NotFound):
        world.get_volume("v")
    world.restart()
    world.until(lambda: not world.rows("SELECT 1 FROM layers"))
    imports.assert_nothing_is_left(world)


def test_a_request_that_was_refused_can_be_made_again_with_the_right_image(world: worlds.World) -> None:
    request = worlds.request("ImportVolume")
    for image in (planted(NOISE, (-512, b"koly")), NOISE):
        with imports.begin(world, request, image, imports.RAW) as upload:
            upload.data(0, image)
            if image is not NOISE:
                with pytest.raises(errors.ImageRefused):
                    upload.finish()
            else:
                upload.finish()
    assert world.volume_bytes("v") == NOISE


def test_a_header_that_a_guest_wrote_into_its_raw_volume_stays_data(
    world: worlds.World, tmp_path: pathlib.Path
) -> None:
    world.succeed(imports.send(world, NOISE, imports.RAW))
    (tmp_path / "secret").write_bytes(b"not yours".ljust(SIZE, b"."))
    create.create(tmp_path / "inner", size_bytes=SIZE, backing_name=str(tmp_path / "secret"))
    inner = (tmp_path / "inner").read_bytes()
    world.write("v", 0, inner)
    wanted = inner + NOISE[len(inner) :]
    assert world.volume_bytes("v") == wanted
    world.snapshot("rapid", "v", rapid=True)
    world.archived("regular", "v")
    world.clone("clone", "regular")
    world.revert("v", "rapid")
    world.restart()
    for contents in (
        world.volume_bytes("v"),
        world.volume_bytes("clone"),
        world.snapshot_bytes("rapid"),
        world.snapshot_bytes("regular"),
    ):
        assert contents == wanted


def test_a_disk_with_a_signature_is_imported_when_it_is_wrapped_as_the_advice_says(
    world: worlds.World, tmp_path: pathlib.Path
) -> None:
    disk = planted(NOISE, (0, b"QFI\xfb\0\0\0\3"), (32_769, b"CD001"), (-512, b"conectix"))
    (tmp_path / "disk.raw").write_bytes(disk)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk"]
    subprocess.run(command, check=True, cwd=tmp_path)
    # A file ends with its guest's last cluster, whose footer would be taken for the file's own.
    image = (tmp_path / "disk").read_bytes().ljust(2 * SIZE, b"\0")
    world.succeed(imports.send(world, image, imports.QCOW2))
    assert world.volume_bytes("v") == disk


def test_a_raw_disk_that_is_refused_was_never_published(world: worlds.World) -> None:
    read: list[fsops.Operation] = []
    with faults.observing(read.append), pytest.raises(errors.ImageRefused):
        imports.send(world, planted(NOISE, (0, b"vhdxfile")), imports.RAW)
    assert not [operation for operation in read if operation.name in ("rename", "link")]
    imports.assert_nothing_is_left(world)
