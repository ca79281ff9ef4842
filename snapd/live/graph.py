"""Block nodes and exports as QEMU takes them: pure functions from layers to arguments of QMP commands.

    export ─▶ F (throttle) ─▶ qcow2 ─▶ qcow2 ─▶ …      each qcow2 node has a file node of its own below it

Graphs are built from what the caller says, who has it from the catalog, and never from a header: every node states its
driver, and the last one that it stands on nothing (`"backing": null`): otherwise QEMU would follow the header's name.

A node has 31 characters at most, and a UUID 32 hexadecimal digits: names are a letter and the UUID in base 32, and give
it back. So a graph that is asked tells layers, not paths.
"""

import base64
import binascii
import dataclasses
import pathlib
import uuid
from collections.abc import Mapping, Sequence

from snapd import model

_LAYER = "l-"
_FILE = "f-"
_FILTER = "v-"
_GROUP = "t-"
_EXPORT = "e-"
_SIDE = "s-"


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """A qcow2 file of a chain."""

    uid: str
    path: pathlib.Path


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """A volume, or a snapshot, that is to be exported."""

    uid: str
    """Of the volume or the snapshot."""
    size_bytes: int
    chain: Sequence[Layer]
    """From the top downwards: the head first, unless it is read-only."""
    way: model.AttachmentWay = model.AttachmentWay.NBD
    read_only: bool = False
    writethrough: bool = True
    """Whether a write is answered only when it can't be lost by the storage daemon's death."""
    limits: model.Limits = model.UNLIMITED
    direct: bool = False
    """Whether the page cache is passed by, as far as the pool's file system can."""


# --- names ------------------------------------------------------------------------------------------------------------


def _name(prefix: str, uid: str) -> str:
    return prefix + base64.b32encode(uuid.UUID(uid).bytes).decode().rstrip("=").lower()


def layer_node(uid: str) -> str:
    """Return the name of a layer's qcow2 node."""
    return _name(_LAYER, uid)


def file_node(uid: str) -> str:
    """Return the name of the node of a layer's file."""
    return _name(_FILE, uid)


def filter_node(uid: str) -> str:
    """Return the name of a disk's fixed filter."""
    return _name(_FILTER, uid)


def throttle_group(uid: str) -> str:
    """Return the name of the object that holds a disk's limits."""
    return _name(_GROUP, uid)


def export(uid: str) -> str:
    """Return the id of a disk's export."""
    return _name(_EXPORT, uid)


def side_export(uid: str) -> str:
    """Return the id of the export by NBD, for reading only, that a disk has beside another one."""
    return _name(_SIDE, uid)


def marker(uid: str) -> str:
    """Return the name of the object by which a storage daemon proves whose it is: a throttle group that nobody uses."""
    return f"daemon-{uid}"


def vhost_socket(uid: str) -> str:
    """Return the name of the socket of a disk's export by vhost-user."""
    return _name("", uid)


def layer_of(node: str) -> str | None:
    """Return the uid of the layer whose qcow2 node has a name, or None if it isn't one."""
    return _uid_of(_LAYER, node)


def disk_of(node: str) -> str | None:
    """Return the uid of the disk whose filter has a name, or None if it isn't one."""
    return _uid_of(_FILTER, node)


def exported_by(export_id: str) -> str | None:
    """Return the uid of the disk whose export, not the one beside it, has an id; None if it isn't one."""
    return _uid_of(_EXPORT, export_id)


def _uid_of(prefix: str, name: str) -> str | None:
    if not name.startswith(prefix):
        return None
    text = name.removeprefix(prefix).upper()
    try:
        data = base64.b32decode(text + "=" * (-len(text) % 8))
        return str(uuid.UUID(bytes=data)) if _name(prefix, str(uuid.UUID(bytes=data))) == name else None
    except (binascii.Error, ValueError):
        return None


# --- nodes ------------------------------------------------------------------------------------------------------------


def layer(described: Layer, *, backing: str | None, read_only: bool, direct: bool = False) -> dict[str, object]:
    """Return the arguments of blockdev-add for a layer on another one's node, or on nothing.

    The file node may reopen by itself: it is open for writing only while somebody above it writes.
    """
    cache = {"direct": direct, "no-flush": False}
    return {
        "driver": "qcow2",
        "node-name": layer_node(described.uid),
        "read-only": read_only,
        "discard": "unmap",
        "cache": cache,
        "backing": backing,
        "file": {
            "driver": "file",
            "node-name": file_node(described.uid),
            "filename": str(described.path),
            "auto-read-only": True,
            "discard": "unmap",
            "cache": cache,
        },
    }


def chain(disk: Disk) -> list[dict[str, object]]:
    """Return the arguments of blockdev-add for a disk's layers, from the lowest upwards: the order of adding them."""
    assert len(disk.chain) >= 1
    nodes = []
    below: str | None = None
    for described in reversed(disk.chain):
        writable = described is disk.chain[0] and not disk.read_only
        nodes.append(layer(described, backing=below, read_only=not writable, direct=disk.direct))
        below = layer_node(described.uid)
    return nodes


def overlay(described: Layer, *, direct: bool = False) -> dict[str, object]:
    """Return the arguments of blockdev-add for a layer that a transaction will put on a head."""
    return layer(described, backing=None, read_only=False, direct=direct)


def fixed_filter(disk: Disk) -> dict[str, object]:
    """Return the arguments of blockdev-add for the filter that stays while what is below it is swapped."""
    return {
        "driver": "throttle",
        "node-name": filter_node(disk.uid),
        "throttle-group": throttle_group(disk.uid),
        "read-only": disk.read_only,
        "file": layer_node(disk.chain[0].uid),
    }


def group(disk: Disk) -> dict[str, object]:
    """Return the arguments of object-add for a disk's limits."""
    return {"qom-type": "throttle-group", "id": throttle_group(disk.uid), "limits": throttling(disk.limits)}


def throttling(limits: model.Limits) -> dict[str, int]:
    """Return limits as a throttle group has them."""
    return {"iops-total": limits.iops, "bps-total": limits.bytes_per_second}


def snapshots(overlays: Mapping[str, str]) -> list[dict[str, object]]:
    """Return the actions of the transaction that puts layers on others: uids of overlays by those of present heads."""
    return [
        {"type": "blockdev-snapshot", "data": {"node": layer_node(head), "overlay": layer_node(top)}}
        for head, top in overlays.items()
    ]


# --- exports ----------------------------------------------------------------------------------------------------------


def exports(disk: Disk, vhost: pathlib.Path) -> list[dict[str, object]]:
    """Return the arguments of block-export-add for all exports of a disk, the one for the hypervisor last.

    vhost is the folder of the sockets that the storage daemon makes. NBD serves each disk under its uid, so that we can
    look at it and flush it; beside vhost-user that is for reading only.

    All are served by the main loop. In an iothread each client of NBD that leaves ends the whole process: its fix of
    CVE-2024-7409 has QEMU 7.2.22 assert that clients are let go of in the main loop.
    """
    node = {"node-name": filter_node(disk.uid)}
    writes = {"writable": not disk.read_only, "writethrough": disk.writethrough}
    if disk.way is model.AttachmentWay.NBD:
        return [{"type": "nbd", "id": export(disk.uid), "name": disk.uid, **node, **writes}]
    address = {"type": "unix", "path": str(vhost / vhost_socket(disk.uid))}
    return [
        {"type": "nbd", "id": side_export(disk.uid), "name": disk.uid, "writable": False, **node},
        {"type": "vhost-user-blk", "id": export(disk.uid), "addr": address, **node, **writes},
    ]
