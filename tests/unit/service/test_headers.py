"""What the headers of layers say of whose heads they were made to be, however a head is made."""

import datetime
import pathlib
import subprocess

import pytest

from snapd import errors, model
from snapd.qcow2.format import header
from snapd.qcow2.reading import image
from snapd.service import descriptions, uploads
from snapd.service.snapshots import SnapshotSpec
from snapd.service.volumes import VolumeSpec
from tests.unit.service import world as worlds

LABELS = {"team": "blue", "größe": "xl"}
SPEC = VolumeSpec("Disk of Zoë", LABELS, model.VolumeRole.ROOT, "vm-7", worlds.SIZE, "")
DAY = datetime.timedelta(days=1)


def _described(path: pathlib.Path) -> descriptions.Head | None:
    """Return what a file's header says, after QEMU has looked at it."""
    subprocess.run(["qemu-img", "check", "-q", str(path)], check=True)
    with image.Image.open(path) as opened:
        data = (opened.header.extension(header.POINT_EXTENSION) or b"").rstrip()
    return descriptions.decode_head(data) if data else None


def _head(world: worlds.World, volume_id: str) -> descriptions.Head:
    """Return what the header of a volume's head says, which must name the volume as it is."""
    volume = world.get_volume(volume_id)
    assert volume.head_layer is not None
    found = _described(world.layer_path(volume.head_layer))
    assert found is not None
    assert found.owner == descriptions.owner_of(volume)
    return found


def _stand(world: worlds.World, volume_id: str) -> descriptions.Stand:
    """Return the point on which a volume's head stands, as the catalog has it."""
    volume = world.get_volume(volume_id)
    (row,) = world.rows(
        "SELECT p.uid, p.environment_uid, p.layer FROM points p JOIN layers l ON l.parent = p.layer WHERE l.uid = ?",
        volume.head_layer or "",
    )
    assert row["uid"] == volume.parent_point
    return descriptions.Stand(row["uid"], row["environment_uid"], row["layer"])


def _create(world: worlds.World, volume_id: str, spec: VolumeSpec = SPEC) -> model.Volume:
    _, operation = world.service.volumes.create(worlds.request("CreateVolume"), "e", volume_id, spec)
    world.succeed(operation)
    return world.get_volume(volume_id)


def test_an_empty_volume(world: worlds.World) -> None:
    _create(world, "v")
    head = _head(world, "v")
    assert (head.stand, head.taken) == (None, None)
    assert head.owner.labels == LABELS


@pytest.mark.parametrize("rapid", [True, False], ids=["rapid", "regular"])
def test_a_capture_names_the_point_and_the_snapshot(world: worlds.World, rapid: bool) -> None:
    world.environment("f")
    _create(world, "v")
    before = _head(world, "v")
    spec = SnapshotSpec(rapid, "Before the upgrade", {"why": "upgrade"}, 3 * DAY)
    snapshot, _ = world.service.snapshots.create(worlds.request("CreateSnapshot"), "e", "s", "v", spec)
    head = _head(world, "v")
    assert head.generation > before.generation
    assert head.stand == _stand(world, "v")
    assert _stand(world, "v").point == snapshot.point
    assert head.taken == descriptions.Taken(
        uid=snapshot.uid,
        id="s",
        display_name="Before the upgrade",
        labels={"why": "upgrade"},
        rapid=rapid,
        retention=3 * DAY if rapid else None,
        due=worlds.START + (3 * DAY if rapid else 0 * DAY),
        captured=snapshot.captured,
    )


def test_a_clone_stands_on_another_volumes_point(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    world.clone("c", "s")
    head = _head(world, "c")
    assert head.stand == _stand(world, "c")
    assert head.taken is None
    assert head.owner.source_snapshot == "environments/e/snapshots/s"


def test_a_clone_stands_on_a_restored_point_whose_layer_is_nobodys_head(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, b"x" * worlds.CLUSTER)
    world.archived("s", "v")
    # Without the volume nothing keeps the layer of the point.
    world.delete_volume("v")
    world.until(lambda: not world.rows("SELECT 1 FROM layers"))
    world.clone("c", "s")
    head = _head(world, "c")
    assert head.stand == _stand(world, "c")
    assert _described(world.layer_path(_stand(world, "c").layer)) is None


def test_a_volume_that_is_fetched_stands_on_nothing(world: worlds.World) -> None:
    world.volume("v")
    snapshot = world.archived("s", "v")
    place = model.ArchivePlace(world.settings.host, snapshot.environment_uid, snapshot.uid)
    _create(world, "w", VolumeSpec("", LABELS, model.VolumeRole.DATA, "", 0, "", place))
    head = _head(world, "w")
    assert (head.stand, head.taken) == (None, None)
    assert head.owner.source_snapshot == place.name


def test_a_revert_is_later_than_what_it_replaces(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("s1", "v", rapid=True)
    world.snapshot("s2", "v", rapid=True)
    before = _head(world, "v")
    world.revert("v", "s1")
    head = _head(world, "v")
    assert head.generation > before.generation
    assert (head.stand, head.taken) == (_stand(world, "v"), None)
    assert _stand(world, "v").point == world.get_snapshot("s1").point


def _begin(
    world: worlds.World, request: model.Request, image_format: model.ImageFormat, size: int, resumed: int = 0
) -> uploads.ImportUpload:
    return world.service.transfers.begin_import(request, "e", "v", SPEC, image_format, size, resumed)


def test_a_raw_import_that_goes_on_in_another_stream(world: worlds.World) -> None:
    request = worlds.request("ImportVolume")
    with _begin(world, request, model.ImageFormat.RAW, 2 * worlds.CLUSTER) as upload:
        upload.data(0, b"x" * worlds.CLUSTER)
        upload.flush()
    (intent,) = world.rows("SELECT number FROM intents WHERE kind = 'upload'")
    with _begin(world, request, model.ImageFormat.RAW, 2 * worlds.CLUSTER, worlds.CLUSTER) as upload:
        upload.data(worlds.CLUSTER, b"x" * worlds.CLUSTER)
        upload.finish()
    head = _head(world, "v")
    assert (head.generation, head.stand, head.taken) == (intent["number"], None, None)
    world.snapshot("s", "v", rapid=True)
    assert _head(world, "v").generation > head.generation


def test_a_qcow2_import(world: worlds.World, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)
    data = path.read_bytes()
    with _begin(world, worlds.request("ImportVolume"), model.ImageFormat.QCOW2, len(data)) as upload:
        upload.data(0, data)
        _, operation = upload.finish()
    world.succeed(operation)
    head = _head(world, "v")
    assert (head.stand, head.taken) == (None, None)


def test_a_header_stays_what_it_was_when_layers_are_folded(world: worlds.World) -> None:
    world.volume("v")
    for number in range(3):
        world.write("v", number * worlds.CLUSTER, b"x" * worlds.CLUSTER)
        world.archived(f"s{number}", "v")
    world.until(lambda: world.depth("v") == 2)
    head = _head(world, "v")
    assert head.stand == _stand(world, "v")


def test_labels_that_are_too_long_are_left_out(world: worlds.World) -> None:
    many = {f"label-{number}": "ü" * 255 for number in range(64)}
    _create(world, "v", VolumeSpec("", many, model.VolumeRole.DATA, "", worlds.SIZE, ""))
    volume = world.get_volume("v")
    assert volume.head_layer is not None
    found = _described(world.layer_path(volume.head_layer))
    assert found is not None
    assert found.owner.labels == {}
    assert found.owner.uid == volume.uid


def test_a_manifest_tells_what_its_snapshot_is(world: worlds.World) -> None:
    world.volume("v")
    first = world.archived("s1", "v")
    world.write("v", 0, b"x" * worlds.CLUSTER)
    spec = SnapshotSpec(True, "Before the upgrade", LABELS, DAY)
    world.service.snapshots.create(worlds.request("CreateSnapshot"), "e", "s2", "v", spec)
    world.pass_time(days=2)
    world.until(lambda: world.get_snapshot("s2").archive.state is model.ArchiveState.ARCHIVED)
    snapshot = world.get_snapshot("s2")
    repository = world.service._core.repository
    metadata = repository.manifest(snapshot.environment_uid, snapshot.uid).metadata
    assert descriptions.decode_metadata(metadata) == descriptions.Archived(
        id="s2",
        display_name="Before the upgrade",
        labels=LABELS,
        environment="e",
        volume="v",
        volume_uid=snapshot.volume_uid,
        point=snapshot.point,
        parent_point=first.point,
        captured=snapshot.captured,
        requested_rapid=True,
        retention=DAY,
    )


def test_a_later_version_is_not_understood() -> None:
    with pytest.raises(errors.Corrupt, match="version 2"):
        descriptions.decode_head(b'{"version": 2}')
