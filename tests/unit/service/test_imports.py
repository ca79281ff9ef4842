"""Images on their way in: whole, cut off, resumed, refused, expired, given up."""

import errno
import os
import pathlib
import random
import subprocess
import threading

import pytest

from snapd import errors, fsops, model, units
from snapd.service import uploads
from snapd.service.volumes import VolumeSpec
from tests.unit.service import faults
from tests.unit.service import world as worlds

RAW, QCOW2 = model.ImageFormat.RAW, model.ImageFormat.QCOW2
DATA = random.Random(4).randbytes(units.MIB)
SPEC = VolumeSpec("", {}, model.VolumeRole.ROOT, "", 0, "")


def _begin(
    world: worlds.World,
    request: model.Request,
    size_bytes: int = len(DATA),
    image_format: model.ImageFormat = RAW,
    resume_offset: int = 0,
) -> uploads.ImportUpload:
    return world.service.transfers.begin_import(request, "e", "v", SPEC, image_format, size_bytes, resume_offset)


def _import(world: worlds.World, image: bytes, image_format: model.ImageFormat) -> model.Operation:
    with _begin(world, worlds.request("ImportVolume"), len(image), image_format) as upload:
        for offset in range(0, len(image), 256 * units.KIB):
            upload.data(offset, image[offset : offset + 256 * units.KIB])
        return upload.finish()[1]


def _qcow2(folder: pathlib.Path, *options: str, data: bytes = DATA) -> bytes:
    raw, image = folder / "disk.raw", folder / "disk.qcow2"
    raw.write_bytes(data)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", *options, str(raw), str(image)], check=True)
    return image.read_bytes()


def test_a_raw_image_becomes_a_volume(world: worlds.World) -> None:
    with _begin(world, worlds.request("ImportVolume"), 3 * len(DATA)) as upload:
        assert upload.volume.state is model.VolumeState.CREATING
        upload.data(0, DATA)
        upload.hole(len(DATA), len(DATA))
        upload.data(2 * len(DATA), DATA)
        volume, operation = upload.finish()
    assert (volume.state, volume.size_bytes, operation.done) == (model.VolumeState.READY, 3 * len(DATA), True)
    assert world.volume_bytes("v") == DATA + bytes(len(DATA)) + DATA


@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "cluster_size=4k"], ["-o", "compat=0.10"]], ids=str)
def test_a_qcow2_image_becomes_a_volume(world: worlds.World, tmp_path: pathlib.Path, options: list[str]) -> None:
    world.succeed(_import(world, _qcow2(tmp_path, *options), QCOW2))
    assert world.get_volume("v").size_bytes == len(DATA)
    assert world.volume_bytes("v") == DATA


def test_an_upload_goes_on_where_it_was_durable_after_a_restart(world: worlds.World) -> None:
    request = worlds.request("ImportVolume")
    with _begin(world, request) as upload:
        upload.data(0, DATA[:65536])
        assert upload.flush() == 65536
        upload.data(65536, DATA[65536:131072])
    world.restart()
    assert world.get_volume("v").state is model.VolumeState.CREATING
    with pytest.raises(errors.UploadOffset) as refused:
        _begin(world, request, resume_offset=131072)
    assert refused.value.durable_offset == 65536
    with _begin(world, request, resume_offset=65536) as upload:
        assert upload.durable_offset == 65536
        upload.data(65536, DATA[65536:])
        assert upload.finish()[0].state is model.VolumeState.READY
    assert world.volume_bytes("v") == DATA


@pytest.mark.parametrize("image_format", [RAW, QCOW2])
def test_an_upload_may_begin_again_at_zero(
    world: worlds.World, tmp_path: pathlib.Path, image_format: model.ImageFormat
) -> None:
    image = DATA if image_format is RAW else _qcow2(tmp_path)
    request = worlds.request("ImportVolume")
    with _begin(world, request, len(image), image_format) as upload:
        upload.data(0, image[:131072])
        upload.flush()
    with _begin(world, request, len(image), image_format) as upload:
        upload.data(0, image)
        world.succeed(upload.finish()[1])
    assert world.volume_bytes("v") == DATA


def test_an_upload_that_ends_early_says_how_far_it_is(world: worlds.World) -> None:
    request = worlds.request("ImportVolume")
    with _begin(world, request) as upload:
        upload.data(0, DATA[:65536])
        with pytest.raises(errors.UploadIncomplete) as refused:
            upload.finish()
    assert (refused.value.durable_offset, refused.value.size_bytes) == (65536, len(DATA))
    with _begin(world, request, resume_offset=65536) as upload:
        upload.data(65536, DATA[65536:])
        upload.finish()
    assert world.volume_bytes("v") == DATA


def test_bytes_come_in_order_and_within_the_image(world: worlds.World) -> None:
    with _begin(world, worlds.request("ImportVolume")) as upload:
        with pytest.raises(errors.UploadOffset):
            upload.data(512, DATA[:512])
        with pytest.raises(errors.OutOfRange):
            upload.data(0, DATA + DATA)
        with pytest.raises(errors.OutOfRange):
            upload.hole(0, 0)
        with pytest.raises(errors.InvalidField):
            upload.data(0, DATA[:100])


def test_an_upload_that_is_whole_takes_no_further_stream(world: worlds.World) -> None:
    request = worlds.request("ImportVolume")
    with _begin(world, request) as upload:
        upload.data(0, DATA)
        upload.finish()
    with pytest.raises(errors.WrongState, match="whole"):
        _begin(world, request)


def test_a_snapshot_of_a_volume_that_is_being_made_is_refused(world: worlds.World) -> None:
    with _begin(world, worlds.request("ImportVolume")), pytest.raises(errors.WrongState):
        world.snapshot("s", "v", rapid=True)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["-u", "-o", "backing_file=/etc/passwd,backing_fmt=raw"], "backing file"),
        (["-o", "data_file=data.raw"], "another file"),
        (["-o", "encrypt.format=aes,encrypt.key-secret=k", "--object", "secret,id=k,data=x"], "encrypt"),
    ],
    ids=["backing file", "data file", "encryption"],
)
def test_an_image_that_asks_for_more_is_refused_and_gone(
    world: worlds.World, tmp_path: pathlib.Path, options: list[str], problem: str
) -> None:
    path = tmp_path / "bad.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "1M"], check=True, cwd=tmp_path)
    with pytest.raises(errors.ImageRefused, match=problem):
        _import(world, path.read_bytes(), QCOW2)
    with pytest.raises(errors.NotFound):
        world.get_volume("v")


def test_what_is_no_qcow2_image_is_refused(world: worlds.World) -> None:
    with pytest.raises(errors.ImageRefused):
        _import(world, DATA, QCOW2)


def test_an_upload_that_nobody_continues_expires(world: worlds.World) -> None:
    request = worlds.request("ImportVolume")
    with _begin(world, request) as upload:
        upload.data(0, DATA[:65536])
        upload.flush()
        operation = upload.operation
        world.pass_time(hours=2)
        world.pass_time(minutes=6)
        assert world.get_volume("v").state is model.VolumeState.CREATING
    world.pass_time(minutes=6)
    world.until(lambda: not world.rows("SELECT 1 FROM volumes"))
    ended = world.service.operations.get("e", operation.id)
    assert ended.error is not None
    assert ended.error.reason == "UPLOAD_INCOMPLETE"
    with pytest.raises(errors.NotFound):
        _begin(world, request, resume_offset=65536)
    with _begin(world, worlds.request("ImportVolume")) as upload:
        upload.data(0, DATA)
        upload.finish()


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "streaming"])
def test_deleting_a_volume_ends_its_upload_as_cancelled(world: worlds.World, cut: bool) -> None:
    with _begin(world, worlds.request("ImportVolume")) as upload:
        upload.data(0, DATA[:65536])
        upload.flush()
        operation = upload.operation
        if cut:
            upload.close()
        world.delete_volume("v")
        with pytest.raises(errors.WrongState):
            upload.data(65536, DATA[65536:])
    ended = world.service.operations.get("e", operation.id)
    assert ended.done
    assert ended.error is not None
    assert ended.error.reason == "OPERATION_CANCELLED"


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "streaming"])
def test_an_upload_can_be_cancelled(world: worlds.World, cut: bool) -> None:
    with _begin(world, worlds.request("ImportVolume")) as upload:
        upload.data(0, DATA[:65536])
        operation = upload.operation
        if cut:
            upload.close()
        world.service.operations.cancel("e", operation.id)
        with pytest.raises(errors.WrongState):
            upload.finish()
    with pytest.raises(errors.NotFound):
        world.get_volume("v")
    ended = world.service.operations.get("e", operation.id)
    assert ended.error is not None
    assert ended.error.reason == "OPERATION_CANCELLED"


def test_the_newest_stream_of_an_upload_has_it(world: worlds.World) -> None:
    request = worlds.request("ImportVolume")
    with _begin(world, request) as stale:
        stale.data(0, DATA[:65536])
        stale.flush()
        stale.data(65536, DATA[65536:131072])
        with _begin(world, request, resume_offset=65536) as fresh:
            for late in (stale.flush, stale.finish, lambda: stale.data(131072, DATA[131072:])):
                with pytest.raises(errors.WrongState):
                    late()
            stale.close()
            fresh.data(65536, DATA[65536:])
            assert fresh.finish()[0].state is model.VolumeState.READY
    assert world.volume_bytes("v") == DATA


def test_cancelling_the_conversion_of_an_image_leaves_nothing(world: worlds.World, tmp_path: pathlib.Path) -> None:
    image = _qcow2(tmp_path)
    reached, go_on = threading.Event(), threading.Event()

    def hold(operation: fsops.Operation) -> None:
        if operation.target == "import_volume.published":
            reached.set()
            assert go_on.wait(faults.PATIENCE_S)

    with faults.observing(hold):
        operation = _import(world, image, QCOW2)
        assert reached.wait(faults.PATIENCE_S)
        world.service.operations.cancel("e", operation.id)
        go_on.set()
        ended = world.ended(operation)
    assert ended.error is not None
    assert ended.error.reason == "OPERATION_CANCELLED"
    with pytest.raises(errors.NotFound):
        world.get_volume("v")


def test_a_conversion_without_room_fails_and_leaves_no_image_behind(
    world: worlds.World, tmp_path: pathlib.Path
) -> None:
    def strike(operation: fsops.Operation) -> None:
        if operation.target == "import_volume.published":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with faults.observing(strike):
        problem = world.ended(_import(world, _qcow2(tmp_path), QCOW2)).error
    assert problem is not None
    assert problem.reason == "STORAGE_FULL"
    assert not os.listdir(world.settings.pool_path / "staging")


def test_an_image_whose_upload_has_ended_is_removed_at_start(world: worlds.World) -> None:
    world.stop()
    left = world.settings.pool_path / "staging" / "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
    left.write_bytes(DATA)
    world.start()
    assert not left.exists()


def test_an_import_into_what_is_not_there_or_taken_is_refused(world: worlds.World) -> None:
    world.volume("v")
    with pytest.raises(errors.AlreadyExists):
        _begin(world, worlds.request("ImportVolume"))
    request = worlds.request("ImportVolume", "none")
    with pytest.raises(errors.NotFound):
        world.service.transfers.begin_import(request, "none", "w", SPEC, RAW, 512, 0)
    with pytest.raises(errors.UploadOffset):
        world.service.transfers.begin_import(worlds.request("ImportVolume"), "e", "w", SPEC, RAW, 1024, 512)
