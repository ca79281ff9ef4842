"""What docs/live-volumes.md says of QEMU and no code of ours relies on yet, tried on the one that is installed."""

from contextlib import closing

import pytest

from snapd import errors, model
from snapd.live import graph, storage
from tests.unit.live import world as worlds


def _reopen(daemon: storage.StorageDaemon, options: dict[str, object]) -> None:
    daemon._ask("blockdev-reopen", {"options": [options]})


def test_a_frozen_layer_is_set_onto_a_merged_one_and_the_old_one_closed(world: worlds.World) -> None:
    base = world.layer()
    middle = world.layer(base)
    volume = world.volume(middle, base)
    daemon = world.start(volume)
    merged = world.layer()
    daemon._ask("blockdev-add", graph.layer(world.described(merged), backing=None, read_only=True))
    child = graph.layer(world.described(middle), backing=graph.layer_node(merged.uid), read_only=True)
    options = {**child, "file": graph.file_node(middle.uid)}
    with closing(worlds.Guest(daemon.nbd_socket, volume.uid)) as guest:
        for _ in range(2):
            _reopen(daemon, options)
            assert guest.write(0, b"a" * 512) == 0
        daemon.withdraw([base.uid])
        assert base.uid not in daemon.layers()
        assert guest.read(0, 1024) == b"a" * 512 + bytes(512)


def test_a_filter_is_set_onto_another_head_and_its_client_stays(world: worlds.World) -> None:
    volume = world.volume()
    daemon = world.start(volume)
    with closing(worlds.Guest(daemon.nbd_socket, volume.uid)) as guest:
        assert guest.write(0, b"a" * 512) == 0
        head = world.layer()
        daemon.add_overlays([world.described(head)])
        for _ in range(2):
            _reopen(daemon, _filter(volume, head))
        assert daemon.heads() == {volume.uid: head.uid}
        assert guest.read(0, 512) == bytes(512)
        assert guest.write(0, b"b" * 512) == 0
        daemon.withdraw([volume.layers[0].uid])
        assert daemon.layers() == {head.uid}
        assert guest.read(0, 512) == b"b" * 512


def _filter(volume: worlds.Volume, head: model.Layer) -> dict[str, object]:
    return {
        "driver": "throttle",
        "node-name": graph.filter_node(volume.uid),
        "throttle-group": graph.throttle_group(volume.uid),
        "read-only": False,
        "file": graph.layer_node(head.uid),
    }


def test_a_head_grows_when_its_filter_is_gone_and_not_before(world: worlds.World) -> None:
    volume = world.volume(world.layer())
    daemon = world.start(volume)
    resize = {"node-name": graph.layer_node(volume.layers[0].uid), "size": 2 * worlds.SIZE}
    with pytest.raises(errors.StorageDaemonRefused, match="Permission conflict"):
        daemon._ask("block_resize", resize)
    daemon.remove(volume.uid, [])
    for _ in range(2):
        daemon._ask("block_resize", resize)
    disk = world.disk(volume)
    daemon.add(graph.Disk(disk.uid, 2 * worlds.SIZE, disk.chain))
    assert worlds.read(daemon, volume, 2 * worlds.SIZE - 512, 512) == bytes(512)
