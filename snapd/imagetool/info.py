"""`image info`: what an image's header says of it, in the fields of `qemu-img info`."""

import datetime
import json
import os
import pathlib
from typing import Any

import click

from snapd import units
from snapd.imagetool import command, opening
from snapd.qcow2.format import layout
from snapd.qcow2.format.bitmaps import Bitmap
from snapd.qcow2.format.snapshots import Snapshot
from snapd.qcow2.reading.image import Image

_BLOCK = 512
"""Bytes of the unit in which the kernel counts a file's space."""


@click.command(cls=command.ImageCommand)
@command.common_options
@click.option(
    "--backing-chain", is_flag=True, help="Tell of the backing files too, where `image map --follow` would go."
)
@click.argument("file", type=command.image_file)
def info(file: pathlib.Path, output: str, format_name: str, force_share: bool, backing_chain: bool) -> None:
    """Say what an image is: its size, its features, its snapshots.

    Opens no other file, unless it is to follow the chain.
    """
    del format_name
    with opening.chain([file], follow=backing_chain, locked=not force_share) as images:
        found = [document(image) for image in images]
    if output == "json":
        click.echo(json.dumps(found if backing_chain else found[0], indent=4))
    else:
        for number, each in enumerate(found):
            if number:
                click.echo()
            _print(each)


def document(image: Image) -> dict[str, Any]:
    """Return the fields of qemu-img's JSON for an open image."""
    header = image.header
    found: dict[str, Any] = {
        "virtual-size": image.size_bytes,
        "filename": str(image.path),
        "cluster-size": image.cluster_size,
        "format": "qcow2",
        "actual-size": os.fstat(image.fileno()).st_blocks * _BLOCK,
        "dirty-flag": bool(header.incompatible & layout.INCOMPATIBLE_DIRTY),
        "format-specific": {"type": "qcow2", "data": _features(image)},
    }
    if header.snapshot_count:
        found["snapshots"] = [_snapshot(each) for each in image.snapshots()]
    if header.backing_name is not None:
        found["backing-filename"] = header.backing_name
        found["full-backing-filename"] = _full_name(image.path, header.backing_name)
        if header.backing_format is not None:
            found["backing-filename-format"] = header.backing_format
    return found


def _features(image: Image) -> dict[str, Any]:
    header = image.header
    found: dict[str, Any] = {
        "compat": "0.10" if header.version == 2 else "1.1",
        "compression-type": "zstd" if header.compression_type == layout.COMPRESSION_ZSTD else "zlib",
        "refcount-bits": 1 << header.refcount_order,
    }
    if header.version > 2:
        found["lazy-refcounts"] = bool(header.compatible & layout.COMPATIBLE_LAZY_REFCOUNTS)
        found["corrupt"] = bool(header.incompatible & layout.INCOMPATIBLE_CORRUPT)
        found["extended-l2"] = header.extended_l2
    bitmaps = image.bitmaps()
    if bitmaps:
        found["bitmaps"] = [_bitmap(each) for each in bitmaps]
    return found


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    clock_s, clock_ns = divmod(snapshot.vm_clock_ns, 10**9)
    found = {
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_bytes,
        "date-sec": snapshot.date_s,
        "date-nsec": snapshot.date_ns,
        "vm-clock-sec": clock_s,
        "vm-clock-nsec": clock_ns,
    }
    return found if snapshot.icount is None else {**found, "icount": snapshot.icount}


def _bitmap(bitmap: Bitmap) -> dict[str, Any]:
    flags = [name for name, is_set in (("in-use", bitmap.in_use), ("auto", bitmap.auto)) if is_set]
    return {"name": bitmap.name, "granularity": bitmap.granularity, "flags": flags}


def _full_name(path: pathlib.Path, backing_name: str) -> str:
    """Return a backing name as seen from where the image was named, as QEMU puts it together; it isn't looked up."""
    if backing_name.startswith("/") or ":" in backing_name.partition("/")[0]:
        return backing_name
    folder = os.path.dirname(path)
    return f"{folder}/{backing_name}" if folder and folder != "/" else f"{folder}{backing_name}"


def _print(found: dict[str, Any]) -> None:
    specific = found["format-specific"]["data"]
    rows = [
        ("image", found["filename"]),
        ("file format", found["format"]),
        ("virtual size", _size(found["virtual-size"])),
        ("disk size", _size(found["actual-size"])),
        ("cluster size", _size(found["cluster-size"])),
        ("left open by a writer", "yes" if found["dirty-flag"] else None),
        ("backing file", found.get("backing-filename")),
        ("backing file format", found.get("backing-filename-format")),
        *((name.replace("-", " "), _plain(value)) for name, value in specific.items() if name != "bitmaps"),
        *(("snapshot", _snapshot_line(each)) for each in found.get("snapshots", ())),
        *(("bitmap", _bitmap_line(each)) for each in specific.get("bitmaps", ())),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        if value is not None:
            click.echo(f"{click.style(name.ljust(width), fg='cyan')}  {command.printable(value)}")


def _snapshot_line(snapshot: dict[str, Any]) -> str:
    taken = datetime.datetime.fromtimestamp(snapshot["date-sec"], datetime.UTC)
    state = f", {units.format_size(snapshot['vm-state-size'])} of a guest's state" if snapshot["vm-state-size"] else ""
    return f"{snapshot['id']}  {snapshot['name']}  of {taken:%Y-%m-%d %H:%M:%S}Z{state}"


def _bitmap_line(bitmap: dict[str, Any]) -> str:
    return "  ".join([bitmap["name"], f"one bit for {units.format_size(bitmap['granularity'])}", *bitmap["flags"]])


def _size(size_bytes: int) -> str:
    return f"{units.format_size(size_bytes)} ({size_bytes} bytes)"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
