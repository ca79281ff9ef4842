"""Images sent to a service as its clients send them, and what is left of one that it refused."""

import os

import pytest

from snapd import errors, model, units
from snapd.service import uploads
from snapd.service.volumes import VolumeSpec
from tests.unit.service import world as worlds

RAW, QCOW2 = model.ImageFormat.RAW, model.ImageFormat.QCOW2
SPEC = VolumeSpec("", {}, model.VolumeRole.ROOT, "", 0, "")


def begin(
    world: worlds.World, request: model.Request, image: bytes, label: model.ImageFormat, resume_offset: int = 0
) -> uploads.ImportUpload:
    return world.service.transfers.begin_import(request, "e", "v", SPEC, label, len(image), resume_offset)


def send(world: worlds.World, image: bytes, label: model.ImageFormat) -> model.Operation:
    """Import an image as volume v, in pieces."""
    with begin(world, worlds.request("ImportVolume"), image, label) as upload:
        for offset in range(0, len(image), 64 * units.KIB):
            upload.data(offset, image[offset : offset + 64 * units.KIB])
        return upload.finish()[1]


def assert_nothing_is_left(world: worlds.World) -> None:
    """Require that a refused import left no row, no layer, no image, no operation."""
    with pytest.raises(errors.NotFound):
        world.get_volume("v")
    for table in ("volumes", "layers", "uploads", "intents", "operations"):
        assert not world.rows(f"SELECT * FROM {table}"), table
    assert [name for _, _, names in os.walk(world.settings.pool_path) for name in names] == []
