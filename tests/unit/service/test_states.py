"""Every method in every state, as the tables say."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping

import pytest

from snapd import errors, model
from snapd.catalog import db, snapshots, volumes
from snapd.service import states
from snapd.service.attachments import AttachmentSpec
from snapd.service.service import Service
from snapd.service.snapshots import SnapshotSpec
from snapd.service.volumes import VolumeSpec
from tests import storagedaemons
from tests.unit.service import world as worlds

Call = Callable[[Service], object]


def _snapshot(rapid: bool) -> Call:
    spec = SnapshotSpec(rapid, "", {}, None)
    return lambda service: service.snapshots.create(worlds.request("CreateSnapshot"), "e", "new", "v", spec)


def _update_volume(service: Service) -> object:
    return service.volumes.update(worlds.request("UpdateVolume"), "e", "v", "", {"instance": "i-1"})


def _update_snapshot(service: Service) -> object:
    return service.snapshots.update(worlds.request("UpdateSnapshot"), "e", "s", "", {"labels": {"a": "b"}})


def _revert(service: Service) -> object:
    return service.volumes.revert(worlds.request("RevertVolume"), "e", "v", "s", "")


def _write(service: Service) -> None:
    with contextlib.closing(service.transfers.begin_write(worlds.request("WriteBlocks"), "e", "v", "")) as write:
        write.data(0, bytes(512))
        write.finish()


def _check(service: Service) -> None:
    with service.checks.begin("e", "v", mend=False) as check:
        assert check.next() is not None


def _clone(service: Service) -> object:
    spec = VolumeSpec("", {}, model.VolumeRole.DATA, "", 0, "s")
    return service.volumes.create(worlds.request("CreateVolume"), "e", "clone", spec)


def _verify(service: Service) -> None:
    with contextlib.suppress(errors.SnapshotNotArchived):
        service.upkeep.verify(worlds.request("VerifySnapshot"), "e", "s", "")


def _attach(service: Service) -> object:
    spec = AttachmentSpec(model.AttachmentWay.NBD, False, True, model.Limits())
    return service.attachments.attach(worlds.request("AttachVolume"), "e", "v", spec, "")


def _detach(service: Service) -> object:
    with contextlib.suppress(errors.WrongState):
        _attach(service)
    return service.attachments.detach(worlds.request("DetachVolume"), "e", "v", "", False)


def _set_limits(service: Service) -> object:
    with contextlib.suppress(errors.WrongState):
        _attach(service)
    return service.attachments.set_limits(worlds.request("SetVolumeLimits"), "e", "v", "", model.Limits(100))


def _attach_snapshot(service: Service) -> object:
    way, limits = model.AttachmentWay.NBD, model.Limits()
    return service.snapshot_attachments.attach(worlds.request("AttachSnapshot"), "e", "s", way, limits, "")


def _detach_snapshot(service: Service) -> object:
    with contextlib.suppress(errors.WrongState):
        _attach_snapshot(service)
    return service.snapshot_attachments.detach(worlds.request("DetachSnapshot"), "e", "s", "")


VOLUME_CALLS: Mapping[str, Call] = {
    "UpdateVolume": _update_volume,
    "RevertVolume": _revert,
    "DeleteVolume": lambda service: service.volumes.delete(worlds.request("DeleteVolume"), "e", "v", "", False),
    "WriteBlocks": _write,
    "ExportVolume": lambda service: worlds.contents(service.transfers.export_volume("e", "v")),
    "CheckVolume": _check,
    "AttachVolume": _attach,
    "DetachVolume": _detach,
    "SetVolumeLimits": _set_limits,
    "CreateSnapshot": _snapshot(rapid=False),
    "CreateSnapshot (rapid)": _snapshot(rapid=True),
}
SNAPSHOT_CALLS: Mapping[str, Call] = {
    "UpdateSnapshot": _update_snapshot,
    "DeleteSnapshot": lambda service: service.snapshots.delete(worlds.request("DeleteSnapshot"), "e", "s", "", False),
    "ArchiveSnapshot": lambda service: service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", "s", ""),
    "VerifySnapshot": _verify,
    "AttachSnapshot": _attach_snapshot,
    "DetachSnapshot": _detach_snapshot,
    "RevertVolume": _revert,
    "CreateVolume": _clone,
    "ExportVolume": lambda service: worlds.contents(service.transfers.export_snapshot("e", "s")),
}


@pytest.fixture
def still(tmp_path: pathlib.Path) -> Iterator[worlds.World]:
    """Open a service that does nothing by itself, with a volume `v` and its snapshot `s`."""
    with storagedaemons.folder() as exports:
        world = worlds.World(tmp_path, exports)
        world.open()
        world.environment()
        world.volume("v")
        world.snapshot("s", "v", rapid=True)
        try:
            yield world
        finally:
            world.stop()


@contextlib.contextmanager
def _edited(world: worlds.World) -> Iterator[db.Transaction]:
    """Change the catalog while the service is closed."""
    world.stop()
    with contextlib.closing(db.Catalog(world.settings.catalog_path)) as catalog, catalog.transaction() as tx:
        yield tx
    world.open()


def _put_volume_into(world: worlds.World, state: model.VolumeState) -> None:
    volume = world.get_volume("v")
    if state is model.VolumeState.SNAPSHOT_IN_PROGRESS:
        world.snapshot("regular", "v", rapid=False)
        return
    with _edited(world) as tx:
        volumes.put(tx, dataclasses.replace(volume, state=state))


def _put_snapshot_into(world: worlds.World, state: model.SnapshotState) -> None:
    snapshot = world.get_snapshot("s")
    with _edited(world) as tx:
        snapshots.put(tx, dataclasses.replace(snapshot, state=state))


def test_every_method_of_the_tables_is_tried() -> None:
    assert VOLUME_CALLS.keys() == states.VOLUME_METHODS.keys()
    assert SNAPSHOT_CALLS.keys() == states.SNAPSHOT_METHODS.keys()


@pytest.mark.parametrize("state", model.VolumeState)
@pytest.mark.parametrize("method", states.VOLUME_METHODS)
def test_a_volume_allows_what_its_table_says(still: worlds.World, method: str, state: model.VolumeState) -> None:
    _put_volume_into(still, state)
    assert still.get_volume("v").state is state
    if state in states.VOLUME_METHODS[method] and (method, state) != ("DeleteVolume", model.VolumeState.CREATING):
        VOLUME_CALLS[method](still.service)
        return
    # A volume that is being made can be deleted while it is uploaded, and this one isn't.
    with pytest.raises(errors.WrongState) as refused:
        VOLUME_CALLS[method](still.service)
    assert refused.value.name == "environments/e/volumes/v"


@pytest.mark.parametrize("state", model.SnapshotState)
@pytest.mark.parametrize("method", states.SNAPSHOT_METHODS)
def test_a_snapshot_allows_what_its_table_says(still: worlds.World, method: str, state: model.SnapshotState) -> None:
    _put_snapshot_into(still, state)
    in_progress = state is model.SnapshotState.IN_PROGRESS
    if state in states.SNAPSHOT_METHODS[method]:
        SNAPSHOT_CALLS[method](still.service)
        return
    with pytest.raises(errors.WrongState) as refused:
        SNAPSHOT_CALLS[method](still.service)
    # While it is in progress, its volume says so too, and is asked first.
    shown = "volumes/v" if in_progress and method == "RevertVolume" else "snapshots/s"
    assert refused.value.name == f"environments/e/{shown}"
