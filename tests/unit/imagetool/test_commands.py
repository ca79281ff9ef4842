"""The commands on images: what they refuse, and that they say so in one line."""

import json
import os
import pathlib
import subprocess
import sys

import click.testing
import pytest

from snapd import __main__, units
from snapd.imagetool import status
from snapd.qcow2.format import layout
from snapd.qcow2.reading.image import Image
from snapd.qcow2.writing import create
from snapd.qcow2.writing.writer import Writer

MEBIBYTE = b"x" * units.MIB


def run(*arguments: str | pathlib.Path) -> click.testing.Result:
    return click.testing.CliRunner().invoke(__main__.main, ["image", *map(str, arguments)])


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=64 * units.MIB)
    with Writer.open(path) as writer:
        writer.write(0, MEBIBYTE)
        writer.flush()
    return path


def refusal(*arguments: str | pathlib.Path) -> str:
    done = run(*arguments)
    assert done.exit_code == 1, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("command", ["info", "map", "check"])
def test_what_is_no_file_is_one_line(tmp_path: pathlib.Path, command: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "fifo", "."):
        done = run(command, tmp_path / name)
        assert done.exit_code in (1, 63)
        assert done.stderr.count("\n") == 1


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path: pathlib.Path) -> None:
    assert "\\x1b[31m" in refusal("info", tmp_path / "\x1b[31mred")


@pytest.mark.parametrize("arguments", [["map"], ["map", "x", "--output=yaml"], ["check", "--nonsense", "x"]])
def test_wrong_usage_is_no_verdict(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 1


def test_an_image_whose_size_was_lost_is_checked(disk: pathlib.Path) -> None:
    with disk.open("r+b") as file:
        file.seek(layout.SIZE_FIELDS_AT)
        file.write(bytes(8))
    done = run("check", disk)
    assert done.exit_code == 0
    assert "Nothing is wrong" in done.stdout


def test_damage_is_one_line(disk: pathlib.Path) -> None:
    with Image.open(disk) as image:
        l1_offset = image.header.l1_offset
    with disk.open("r+b") as file:
        file.seek(l1_offset)
        file.write((disk.stat().st_size * 2 | 1 << 63).to_bytes(8))
    assert "disk.qcow2" in refusal("map", disk)
    assert "disk.qcow2" in refusal("map", "--output=json", disk)


def overlay(path: pathlib.Path, backing_name: str, backing_format: str = "qcow2") -> pathlib.Path:
    create.create(path, size_bytes=units.MIB, backing_name=backing_name, backing_format=backing_format)
    return path


@pytest.mark.parametrize("name", ["../disk.qcow2", "/etc/passwd", "sub/disk", "json:{}", "nbd:host", "..", "."])
def test_only_plain_names_are_followed(tmp_path: pathlib.Path, name: str) -> None:
    path = overlay(tmp_path / "top.qcow2", name)
    assert "no plain name" in refusal("map", "--follow", path)
    assert run("map", path).exit_code == 0


def test_a_backing_file_of_another_format_is_not_followed(tmp_path: pathlib.Path) -> None:
    path = overlay(tmp_path / "top.qcow2", "base", "raw")
    assert "doesn't say" in refusal("map", "--follow", path)


def test_a_link_is_not_followed(tmp_path: pathlib.Path, disk: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(disk)
    assert "not a regular file" in refusal("map", "--follow", overlay(tmp_path / "top.qcow2", "link"))


def test_loops_end(tmp_path: pathlib.Path) -> None:
    overlay(tmp_path / "a", "b")
    assert "twice" in refusal("map", "--follow", overlay(tmp_path / "b", "a"))
    assert "twice" in refusal("map", "--follow", overlay(tmp_path / "self", "self"))


def test_the_picture_names_what_there_is(disk: pathlib.Path) -> None:
    shown = run("map", disk).stdout
    assert "disk.qcow2" in shown
    assert "data  1.0 MiB  1.6 %" in shown
    assert "unallocated  63.0 MiB  98.4 %" in shown
    assert "█" in shown


def test_a_missing_backing_file_is_no_hindrance_unless_followed(tmp_path: pathlib.Path) -> None:
    path = overlay(tmp_path / "top.qcow2", "gone")
    done = run("map", path)
    assert done.exit_code == 0
    assert "stands on gone" in done.stderr
    assert "gone: No such file" in refusal("map", "--follow", path)


def test_an_empty_disk_has_an_empty_map(tmp_path: pathlib.Path) -> None:
    create.create(tmp_path / "disk", size_bytes=0)
    assert json.loads(run("map", "--output=json", tmp_path / "disk").stdout) == []
    assert run("map", tmp_path / "disk").exit_code == 0


def test_png_shows_the_disk(tmp_path: pathlib.Path, disk: pathlib.Path) -> None:
    picture = tmp_path / "disk.png"
    assert run("map", disk, "--png", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("name", ["map", "info", "check"])
def test_a_full_device_is_one_line(disk: pathlib.Path, name: str, buffered: bool) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "snapd", "image", name, "--output=json", str(disk)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr == b"Error: No space left on device\n"


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk"
    create.create(path, size_bytes=64 * units.MIB)
    with Writer.open(path) as writer:
        for number in range(0, 1024, 2):
            writer.write(number * 64 * units.KIB, b"x" * 512)
        writer.flush()
    reader, output = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "snapd", "image", "map", "--output=json", str(path)]
    with open(output, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


WITHOUT_NUMPY = """
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "numpy":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refusal())
from snapd import __main__
__main__.main(["image", "map", "disk"])
"""


def test_the_light_installation_says_what_is_missing() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMPY], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: numpy is missing: pip install 'snapd-storage[daemon]'\n"


PROGRAM = """
import sys
from snapd import __main__
__main__.main(["image", "map", "--output=json", sys.argv[1]], standalone_mode=False)
print(sorted({"grpc", "google.protobuf", "sqlite3", "asyncio", "snapd.daemon", "snapd.service"} & sys.modules.keys()))
"""


def test_commands_on_images_load_nothing_of_the_daemon(disk: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, disk], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_vast_and_empty_disk_is_mapped_at_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk"
    create.create(path, size_bytes=1 << 60, cluster_size=2 * units.MIB)
    with Writer.open(path) as writer:
        writer.write(700 << 50, MEBIBYTE)
        writer.flush()
    with Image.open(path) as image:
        windows = list(status.ranges([image]))
    assert len(windows) < 20
    found = json.loads(run("map", "--output=json", path).stdout)
    assert [(each["start"], each["length"], each["present"]) for each in found] == [
        (0, 700 << 50, False),
        (700 << 50, 2 * units.MIB, True),
        ((700 << 50) + 2 * units.MIB, (324 << 50) - 2 * units.MIB, False),
    ]
