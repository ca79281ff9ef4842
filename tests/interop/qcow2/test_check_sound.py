"""Images that QEMU made, of every kind: our check says of them what qemu-img check says, in all its numbers."""

import itertools
import json
import pathlib
import subprocess
from typing import Any

import pytest

from snapd import units
from snapd.qcow2.checking import check
from snapd.qcow2.reading import image

Qemu = Any  # the fixture's class, which tests can't import

SIZE = 20 * units.MIB
FIELDS = {
    "image-end-offset": "image_end_bytes",
    "corruptions": "corruptions",
    "leaks": "leaks",
    "check-errors": "check_errors",
    "total-clusters": "total_clusters",
    "allocated-clusters": "allocated_clusters",
    "compressed-clusters": "compressed_clusters",
    "fragmented-clusters": "fragmented_clusters",
}
WIDTHS = {512: (1, 16, 64), 4096: (2, 8, 32), 65536: (1, 2, 4, 8, 16, 32, 64), 2 * units.MIB: (1, 16, 64)}


def assert_equal(path: pathlib.Path, qemu: Qemu) -> None:
    """Require that both find the same, and that the image is sound."""
    theirs = qemu.check(path)
    ours = check.check(path)
    assert {field: getattr(ours, name) for field, name in FIELDS.items()} == {
        field: theirs.get(field, 0) for field in FIELDS
    }
    with image.Image.open(path) as opened:
        check.require_sound(opened)


def fill(path: pathlib.Path, qemu: Qemu, cluster_size: int, *, zeroes: bool) -> None:
    """Write data, some of it discarded and overwritten, compressed clusters and zeros on all of them."""
    packed = max(cluster_size, 64 * units.KIB)
    qemu.io(path, "write -P 1 0 3M", "write -P 2 5M 1M", "write -P 3 9M 64k", "discard 1M 128k", "write -P 4 1M 64k")
    qemu.io(path, f"write -c -P 5 12M {packed}", f"write -c -P 6 14M {packed}")
    if zeroes:
        qemu.io(path, "write -z 5M 256k", "write -z 7M 1M", f"write -z 14M {packed}")


@pytest.mark.parametrize(
    ("cluster_size", "bits", "extended"),
    [
        *((size, bits, "off") for size, widths in WIDTHS.items() for bits in widths),
        *itertools.product((16384, 65536, 2 * units.MIB), (4, 16), ("on",)),
    ],
)
def test_every_kind_of_image_is_counted_as_qemu_counts_it(
    tmp_path: pathlib.Path, qemu: Qemu, cluster_size: int, bits: int, extended: str
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, cluster_size=cluster_size, refcount_bits=bits, extended_l2=extended)
    fill(path, qemu, cluster_size, zeroes=True)
    qemu.img("bitmap", "--add", path, "one")
    qemu.img("bitmap", "--add", "-g", "512", path, "two")
    qemu.io(path, "write -P 9 2M 100k")
    assert_equal(path, qemu)


@pytest.mark.parametrize(("cluster_size", "bits", "extended"), [(512, 16, "off"), (4096, 64, "off"), (65536, 8, "on")])
def test_internal_snapshots_count_as_references(
    tmp_path: pathlib.Path, qemu: Qemu, cluster_size: int, bits: int, extended: str
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, cluster_size=cluster_size, refcount_bits=bits, extended_l2=extended)
    qemu.io(path, "write -P 1 0 3M", "write -c -P 2 5M 64k")
    for name in ("one", "two", "three"):
        qemu.img("snapshot", "-c", name, path)
        qemu.io(path, "write -P 7 100k 1M", "write -P 8 16M 70k", "write -z 2M 200k")
        assert_equal(path, qemu)
    qemu.img("snapshot", "-d", "one", path)
    assert_equal(path, qemu)
    with image.Image.open(path) as opened, opened.of_snapshot("two") as view:
        check.require_sound(view)


def test_a_version_2_image_is_counted_as_qemu_counts_it(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, compat="0.10")
    fill(path, qemu, 65536, zeroes=False)
    qemu.img("snapshot", "-c", "one", path)
    qemu.io(path, "write -P 7 100k 1M")
    assert_equal(path, qemu)


def test_an_overlay_and_an_empty_image_are_counted_as_qemu_counts_them(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    base, path = tmp_path / "base.qcow2", tmp_path / "disk.qcow2"
    qemu.create(base, SIZE)
    assert_equal(base, qemu)
    qemu.create(path, SIZE, backing=base.name)
    qemu.io(path, "write -P 1 1M 100k", "discard 1M 64k", "write -z 3M 1M")
    assert_equal(path, qemu)


def test_what_an_image_that_was_not_closed_leaks_is_counted_as_qemu_counts_it(
    tmp_path: pathlib.Path, qemu: Qemu
) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, SIZE, lazy_refcounts="on")
    # The dirty bit is set, and the refcounts are what they were.
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "-c", "flush", "-c", "abort", path],
        check=False,
        capture_output=True,
    )
    done = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", "--output=json", path], check=False, capture_output=True, text=True
    )
    theirs = json.loads(done.stdout)
    ours = check.check(path)
    assert ours.corruptions == theirs["corruptions"] > 0
    with image.Image.open(path) as opened:
        check.require_sound(opened)
