import pathlib
import uuid

from snapd import model
from snapd.live import graph

HEAD = "aa000000-0000-4000-8000-000000000001"
BASE = "bb000000-0000-4000-8000-000000000002"
VOLUME = "cc000000-0000-4000-8000-000000000003"
LAYERS = (graph.Layer(HEAD, pathlib.Path("/pool/head")), graph.Layer(BASE, pathlib.Path("/pool/base")))


def test_names_fit_into_what_qemu_takes_and_give_the_uid_back() -> None:
    for uid in (HEAD, str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1))):
        names = {
            graph.layer_node(uid),
            graph.file_node(uid),
            graph.filter_node(uid),
            graph.throttle_group(uid),
            graph.export(uid),
            graph.side_export(uid),
        }
        assert len(names) == 6
        assert all(len(name) <= 31 and name[0].isalpha() for name in names)
        assert graph.layer_of(graph.layer_node(uid)) == uid
        assert graph.disk_of(graph.filter_node(uid)) == uid
        assert graph.exported_by(graph.export(uid)) == uid


def test_names_that_are_not_ours_are_nobodys() -> None:
    ours = graph.layer_node(HEAD)
    for name in ("", "l-", "#block123", graph.file_node(HEAD), ours.upper(), ours + "a", ours[:-1], ours[:-1] + "z"):
        assert graph.layer_of(name) is None


def test_a_chain_is_added_from_the_lowest_layer_which_stands_on_nothing_whatever_its_header_says() -> None:
    base, head = graph.chain(graph.Disk(VOLUME, 512, LAYERS))
    assert (base["backing"], head["backing"]) == (None, base["node-name"])
    assert (base["node-name"], head["node-name"]) == (graph.layer_node(BASE), graph.layer_node(HEAD))
    assert "backing" in graph.overlay(LAYERS[0])
    assert graph.overlay(LAYERS[0])["backing"] is None


def test_only_the_head_of_a_disk_that_may_be_written_is_open_for_writing() -> None:
    def writable(disk: graph.Disk) -> list[bool]:
        return [not node["read-only"] for node in graph.chain(disk)]

    assert writable(graph.Disk(VOLUME, 512, LAYERS)) == [False, True]
    assert writable(graph.Disk(VOLUME, 512, LAYERS, read_only=True)) == [False, False]
    for node in graph.chain(graph.Disk(VOLUME, 512, LAYERS)):
        file = node["file"]
        assert isinstance(file, dict)
        assert file["auto-read-only"] is True
        assert "read-only" not in file  # or a job could never write it


def test_each_node_states_its_driver() -> None:
    disk = graph.Disk(VOLUME, 512, LAYERS)
    for node in graph.chain(disk):
        file = node["file"]
        assert isinstance(file, dict)
        assert (node["driver"], file["driver"]) == ("qcow2", "file")


def test_a_disk_under_vhost_user_is_beside_it_exported_for_reading_only() -> None:
    disk = graph.Disk(VOLUME, 512, LAYERS, model.AttachmentWay.VHOST_USER_BLK)
    side, main = graph.exports(disk, pathlib.Path("/run/vhost"))
    assert (side["type"], side["writable"], side["name"]) == ("nbd", False, VOLUME)
    assert (main["type"], main["writable"], main["writethrough"]) == ("vhost-user-blk", True, True)
    assert main["addr"] == {"type": "unix", "path": f"/run/vhost/{graph.vhost_socket(VOLUME)}"}


def test_a_transaction_puts_each_overlay_on_its_head() -> None:
    (action,) = graph.snapshots({BASE: HEAD})
    assert action["data"] == {"node": graph.layer_node(BASE), "overlay": graph.layer_node(HEAD)}
