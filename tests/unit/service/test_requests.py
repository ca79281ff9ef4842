"""Request ids: a retry finds what the first try made, and a refused request is as if it had never come."""

import contextlib
import threading
import uuid
from collections.abc import Callable

import pytest

from snapd import errors, model
from snapd.service.service import Service
from snapd.service.snapshots import SnapshotSpec
from snapd.service.volumes import VolumeSpec
from tests.unit.service import world as worlds

VOLUME = VolumeSpec("", {}, model.VolumeRole.DATA, "", worlds.SIZE, "")
CLONE = VolumeSpec("", {}, model.VolumeRole.DATA, "", 0, "s")
RAPID = SnapshotSpec(True, "", {}, None)

CALLS: dict[str, Callable[[Service, model.Request], tuple[model.Volume | model.Snapshot | None, object]]] = {
    "CreateVolume": lambda service, request: service.volumes.create(request, "e", "", VOLUME),
    "CreateVolume from snapshot": lambda service, request: service.volumes.create(request, "e", "", CLONE),
    "CreateSnapshot": lambda service, request: service.snapshots.create(request, "e", "", "v", RAPID),
    "RevertVolume": lambda service, request: service.volumes.revert(request, "e", "v", "s", ""),
    "ArchiveSnapshot": lambda service, request: service.snapshots.archive(request, "e", "s", ""),
    "DeleteVolume": lambda service, request: service.volumes.delete(request, "e", "v", "", False),
    "DeleteSnapshot": lambda service, request: service.snapshots.delete(request, "e", "s", "", False),
}


def _request(method: str, digest: bytes = b"1") -> model.Request:
    return worlds.request(method.partition(" ")[0], digest=digest)


@pytest.mark.parametrize("method", CALLS)
def test_a_retry_finds_the_resource_and_the_operation_of_the_first_try(world: worlds.World, method: str) -> None:
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    request = _request(method)
    resource, operation = CALLS[method](world.service, request)
    assert isinstance(operation, model.Operation)
    world.succeed(operation)
    world.restart()
    again, same_operation = CALLS[method](world.service, request)
    assert isinstance(same_operation, model.Operation)
    assert same_operation.uid == operation.uid
    assert again is None or (resource is not None and again.uid == resource.uid)


@pytest.mark.parametrize("method", CALLS)
def test_a_request_id_that_comes_with_another_request_is_refused(world: worlds.World, method: str) -> None:
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    request = _request(method)
    CALLS[method](world.service, request)
    other = model.Request(request.identity, request.method, request.parent, request.request_id, b"2")
    with pytest.raises(errors.RequestIdReused):
        CALLS[method](world.service, other)


def test_the_same_id_from_another_caller_or_for_another_method_is_another_request(world: worlds.World) -> None:
    request_id = str(uuid.uuid4())
    uids = set()
    for identity in ("me", "you"):
        request = model.Request(identity, "CreateVolume", "e", request_id, b"")
        uids.add(world.service.volumes.create(request, "e", "", VOLUME)[0].uid)
    assert len(uids) == 2


def test_a_refused_request_can_be_made_again_with_the_same_id(world: worlds.World) -> None:
    world.volume("v")
    request = worlds.request("CreateVolume")
    with pytest.raises(errors.AlreadyExists):
        world.service.volumes.create(request, "e", "v", VOLUME)
    world.delete_volume("v")
    volume, operation = world.service.volumes.create(request, "e", "v", VOLUME)
    assert (volume.state, operation.done) == (model.VolumeState.READY, True)


def test_a_request_without_an_id_is_new_each_time(world: worlds.World) -> None:
    request = worlds.request("CreateVolume", request_id="")
    first, _ = world.service.volumes.create(request, "e", "", VOLUME)
    second, _ = world.service.volumes.create(request, "e", "", VOLUME)
    assert first.uid != second.uid


def test_one_request_sent_by_many_threads_at_once_makes_one_thing(world: worlds.World) -> None:
    world.volume("v")
    snapshot_request, deletion_request = worlds.request("CreateSnapshot"), worlds.request("DeleteVolume")
    uids: list[str] = []

    def snapshot() -> None:
        uids.append(world.service.snapshots.create(snapshot_request, "e", "", "v", RAPID)[0].uid)

    def delete() -> None:
        with contextlib.suppress(errors.NotFound):
            _, operation = world.service.volumes.delete(deletion_request, "e", "v", "", False)
            assert operation is not None
            uids.append(operation.uid)

    _together(snapshot)
    assert len(uids) == 6
    assert len(set(uids)) == 1
    uids.clear()
    _together(delete)
    assert len(set(uids)) == 1


def _together(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_ids_are_forgotten_after_two_days(world: worlds.World) -> None:
    request = worlds.request("CreateVolume")
    first, _ = world.service.volumes.create(request, "e", "", VOLUME)
    world.pass_time(hours=48, seconds=1)
    world.until(lambda: not world.rows("SELECT 1 FROM requests WHERE request_id = ?", request.request_id))
    second, _ = world.service.volumes.create(request, "e", "", VOLUME)
    assert first.uid != second.uid


def test_deleting_what_is_not_there_is_fine_where_that_is_allowed(world: worlds.World) -> None:
    assert world.service.volumes.delete(_request("DeleteVolume"), "e", "none", "", True) == (None, None)
    assert world.service.snapshots.delete(_request("DeleteSnapshot"), "e", "none", "", True) == (None, None)
    with pytest.raises(errors.NotFound):
        world.service.volumes.delete(_request("DeleteVolume"), "e", "none", "", False)
    with pytest.raises(errors.NotFound):
        world.service.snapshots.delete(_request("DeleteSnapshot"), "e", "none", "", False)


def test_an_environment_is_empty_when_it_is_deleted(world: worlds.World) -> None:
    world.volume("v")
    with pytest.raises(errors.EnvironmentNotEmpty) as refused:
        world.service.environments.delete(worlds.request("DeleteEnvironment", ""), "e", "", False)
    assert (refused.value.volumes, refused.value.snapshots) == (1, 0)
    world.archived("s", "v")
    world.delete_volume("v")
    world.delete_snapshot("s")
    world.service.environments.delete(worlds.request("DeleteEnvironment", ""), "e", "", False)
    with pytest.raises(errors.NotFound):
        world.service.environments.get("e")
    world.until(lambda: not world.archive_files("hosts/local/environments"))


def test_a_stale_etag_is_refused(world: worlds.World) -> None:
    volume = world.volume("v")
    etag = f'"{volume.revision:x}"'
    world.service.volumes.update(worlds.request("UpdateVolume"), "e", "v", etag, {"instance": "i-1"})
    with pytest.raises(errors.EtagMismatch):
        world.service.volumes.update(worlds.request("UpdateVolume"), "e", "v", etag, {"instance": "i-2"})
    assert world.get_volume("v").instance == "i-1"
