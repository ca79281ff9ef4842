"""`snapd-storage image` beside `qemu-img`: the same words, numbers and exit codes."""

import json
import os
import pathlib
import random
import subprocess
from typing import Any, Protocol

import click.testing
import pytest

from snapd import __main__, units
from snapd.qcow2.format import locks


class Qemu(Protocol):
    def img(self, *arguments: str | pathlib.Path) -> str: ...
    def io(self, path: pathlib.Path, *commands: str) -> None: ...
    def create(self, path: pathlib.Path, size_bytes: int, **options: Any) -> None: ...


def image_tool(*arguments: str | pathlib.Path) -> click.testing.Result:
    return click.testing.CliRunner().invoke(__main__.main, ["image", *map(str, arguments)])


def answer(*arguments: str | pathlib.Path) -> Any:
    done = image_tool(*arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def alone(path: pathlib.Path) -> str:
    """Return what names an image to QEMU without its backing file."""
    return "json:" + json.dumps({"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": str(path)}})


def scribbles(size_bytes: int, seed: int) -> list[str]:
    """Return commands of qemu-io: compressed clusters in the first MiB, all else anywhere behind it."""
    rng = random.Random(seed)
    commands = [f"write -c {64 * number}k 64k" for number in rng.sample(range(16), 5)]
    for _ in range(60):
        kind = rng.choice(["write", "write -z", "write -z -u", "discard"])
        offset = rng.randrange(1024, size_bytes // units.KIB - 512)
        commands.append(f"{kind} {offset}k {rng.randrange(1, 512)}k")
    return commands


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cluster_size": "4k", "refcount_bits": 1},
        {"compat": "0.10"},
        {"extended_l2": "on", "cluster_size": "16k"},
        {"extended_l2": "on"},
        {"compression_type": "zstd", "lazy_refcounts": "on", "refcount_bits": 64},
    ],
    ids=str,
)
def test_map_has_the_bytes_of_qemus(tmp_path: pathlib.Path, qemu: Qemu, options: dict[str, str | int]) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, 8 * units.MIB, **options)
    if "cluster_size" in options:
        qemu.io(path, "write 0 100k", "write -z 200k 300k", "write 1M 10k", "write 1030k 2k", "write -z 1M 512")
    else:
        qemu.io(path, *scribbles(8 * units.MIB, seed=11))
    assert image_tool("map", "--output=json", path).stdout == qemu.img("map", "--output=json", path)


def test_map_of_preallocated_metadata_shows_holes_as_zeros(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, 64 * units.MIB, preallocation="metadata")
    qemu.io(path, "write 0 70k", "write 1M 64k", "write 63M 12k", "write -z 2M 64k")
    assert image_tool("map", "--output=json", path).stdout == qemu.img("map", "--output=json", path)


def test_map_of_a_chain_shows_depths_as_qemu_does(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    sizes = {"base": 4 * units.MIB, "middle": 9 * units.MIB, "top": 8 * units.MIB}
    below: str | None = None
    for number, (name, size_bytes) in enumerate(sizes.items()):
        qemu.create(tmp_path / name, size_bytes, backing=below, cluster_size=units.KIB * 16 << number)
        qemu.io(tmp_path / name, f"write {number}M 300k", "write -z 2M 64k", f"discard {number}M 64k")
        below = name
    wanted = qemu.img("map", "--output=json", tmp_path / "top")
    assert image_tool("map", "--output=json", "--follow", tmp_path / "top").stdout == wanted
    assert image_tool("map", "--output=json", *(tmp_path / name for name in ("top", "middle", "base"))).stdout == wanted


def test_map_without_being_told_shows_the_file_alone(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    qemu.create(tmp_path / "base", units.MIB)
    qemu.io(tmp_path / "base", "write 0 1M")
    qemu.create(tmp_path / "top", units.MIB, backing="base")
    qemu.io(tmp_path / "top", "write 64k 64k")
    assert image_tool("map", "--output=json", tmp_path / "top").stdout == qemu.img(
        "map", "--output=json", alone(tmp_path / "top")
    )


def test_map_of_a_snapshot_shows_what_it_showed(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, 8 * units.MIB)
    qemu.io(path, "write 1M 300k", "write -z 3M 64k")
    before = qemu.img("map", "--output=json", path)
    qemu.img("snapshot", "-c", "before", path)
    qemu.io(path, "write 0 8M")
    assert image_tool("map", "--output=json", "--snapshot", "before", path).stdout == before
    assert image_tool("map", "--output=json", "--snapshot", "1", path).stdout == before
    assert image_tool("map", "--output=json", path).stdout == qemu.img("map", "--output=json", path)
    missing = image_tool("map", "--snapshot", "never", path)
    assert missing.exit_code == 1
    assert "never" in missing.stderr


def test_map_joins_what_goes_on_in_the_next_window(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, 100 * units.GIB)
    qemu.io(path, "write 32767M 2M", "write 65535M 1M", "write -z 70000M 2M")
    assert image_tool("map", "--output=json", path).stdout == qemu.img("map", "--output=json", path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compat": "0.10"},
        {"extended_l2": "on"},
        {"compression_type": "zstd", "lazy_refcounts": "on", "refcount_bits": 1, "cluster_size": "2M"},
    ],
    ids=str,
)
def test_info_has_the_fields_of_qemus(tmp_path: pathlib.Path, qemu: Qemu, options: dict[str, str | int]) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, 8 * units.MIB, **options)
    assert answer("info", "--output=json", path) == json.loads(qemu.img("info", "--output=json", path))


def test_info_names_snapshots_and_bitmaps(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, units.MIB)
    qemu.io(path, "write 0 128k")
    qemu.img("snapshot", "-c", "before the upgrade", path)
    qemu.img("snapshot", "-c", "after", path)
    qemu.img("bitmap", "--add", path, "daily")
    qemu.img("bitmap", "--add", "--disable", "-g", "32k", path, "weekly")
    assert answer("info", "--output=json", path) == json.loads(qemu.img("info", "--output=json", path))
    shown = image_tool("info", path).stdout
    assert "before the upgrade" in shown
    assert "one bit for 32.0 KiB" in shown


def test_check_counts_fragments_and_compressed_clusters(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, 8 * units.MIB)
    qemu.io(path, *scribbles(8 * units.MIB, seed=12))
    assert answer("check", "--output=json", path) == json.loads(qemu.img("check", "--output=json", path))


def test_an_image_in_use_is_shown_only_by_force(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, units.MIB)
    fd = os.open(path, os.O_RDWR)
    try:
        locks.exclusive(fd, path.name)
        for command in ("info", "map", "check"):
            refused = image_tool(command, path)
            assert refused.exit_code == 1
            assert "disk.qcow2 is in use" in refused.stderr
            assert image_tool(command, "-U", path).exit_code == 0
    finally:
        os.close(fd)


def test_info_of_a_chain_names_what_it_stands_on(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    qemu.create(tmp_path / "base", units.MIB)
    qemu.create(tmp_path / "top", units.MIB, backing="base")
    wanted = json.loads(qemu.img("info", "--output=json", "--backing-chain", tmp_path / "top"))
    assert answer("info", "--output=json", tmp_path / "top") == wanted[0]
    assert answer("info", "--output=json", "--backing-chain", tmp_path / "top") == wanted


def test_check_has_the_fields_and_the_exit_code_of_qemus(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    qemu.create(path, units.MIB)
    qemu.io(path, "write 0 128k")
    assert answer("check", "--output=json", path) == json.loads(qemu.img("check", "--output=json", path))
    with path.open("r+b") as file:
        file.seek(2 * 64 * units.KIB + 7 * 2)
        file.write(b"\0\1")
        file.truncate(8 * 64 * units.KIB)
    peer = subprocess.run(["qemu-img", "check", "--output=json", path], check=False, capture_output=True)
    ours = image_tool("check", "--output=json", path)
    assert (ours.exit_code, json.loads(ours.stdout)) == (peer.returncode, json.loads(peer.stdout))
    assert ours.exit_code == 3


def damage(qemu: Qemu, path: pathlib.Path, *counts: bytes) -> None:
    """Make an image of six clusters with these refcounts for the second of its data and the two behind it."""
    qemu.create(path, units.MIB)
    qemu.io(path, "write 0 128k")
    with path.open("r+b") as file:
        file.seek(2 * 64 * units.KIB + 6 * 2)
        file.write(b"".join(counts))
        file.truncate(9 * 64 * units.KIB)


@pytest.mark.parametrize(
    ("counts", "asked", "before", "after"),
    [
        ((b"\0\1", b"\0\1", b"\0\1"), "leaks", 3, 0),
        ((b"\0\1", b"\0\1", b"\0\0"), "all", 3, 0),
        ((b"\0\0", b"\0\1", b"\0\0"), "all", 2, 0),
        ((b"\0\2", b"\0\0", b"\0\0"), "all", 2, 0),
    ],
)
def test_a_repair_ends_as_qemus(
    tmp_path: pathlib.Path, qemu: Qemu, counts: tuple[bytes, ...], asked: str, before: int, after: int
) -> None:
    path, twin = tmp_path / "disk.qcow2", tmp_path / "twin.qcow2"
    damage(qemu, path, *counts)
    damage(qemu, twin, *counts)
    assert image_tool("check", "-q", path).exit_code == before
    peer = subprocess.run(
        ["qemu-img", "check", "--output=json", "-r", asked, twin], check=False, capture_output=True, text=True
    )
    ours = image_tool("check", "--output=json", "-r", asked, path)
    assert (ours.exit_code, peer.returncode) == (after, after)
    fixed = {"leaks-fixed", "corruptions-fixed"}
    # QEMU puts leaks right first, after which a flag may be no contradiction any more.
    assert fixed & json.loads(ours.stdout).keys() >= fixed & json.loads(peer.stdout).keys() > set()
    assert json.loads(qemu.img("check", "--output=json", path)).get("leaks", 0) == 0
    assert "put right" not in image_tool("check", "-r", asked, path).stdout


def test_leaks_of_a_corrupt_image_are_left_alone(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    path = tmp_path / "disk.qcow2"
    damage(qemu, path, b"\0\0", b"\0\1")
    content = path.read_bytes()
    done = image_tool("check", "-r", "leaks", path)
    assert done.exit_code == 2
    assert "Nothing was repaired" in done.stderr
    assert path.read_bytes() == content
    assert image_tool("check", "-r", "all", "-U", path).exit_code == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"KDMV" + b"\0" * 4096])
def test_check_of_another_format_is_unsupported(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "disk"
    path.write_bytes(content)
    done = image_tool("check", path)
    assert done.exit_code == 63
    assert done.stderr.count("\n") == 1
