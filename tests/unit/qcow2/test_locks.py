import os
import pathlib
import subprocess
import sys

import pytest

from snapd import errors, fsops, units
from snapd.qcow2.checking import check, repair
from snapd.qcow2.format import locks
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, fold, writer

SIZE = units.MIB


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    made = tmp_path / "disk.qcow2"
    create.create(made, size_bytes=SIZE)
    return made


def test_readers_share_an_image(path: pathlib.Path) -> None:
    with image.Image.open(path) as one, image.Image.open(path) as other:
        assert one.size_bytes == other.size_bytes == SIZE


def test_a_writer_is_alone(path: pathlib.Path) -> None:
    with writer.Writer.open(path):
        with pytest.raises(errors.ImageBusy, match=r"disk\.qcow2 is in use: somebody else writes it"):
            image.Image.open(path)
        with pytest.raises(errors.ImageBusy):
            writer.Writer.open(path)
        with pytest.raises(errors.ImageBusy):
            check.check(path)
        with pytest.raises(errors.ImageBusy):
            create.set_backing_name(path, "base.qcow2")
    check.check(path)


def test_nobody_writes_what_is_read(path: pathlib.Path) -> None:
    before = path.read_bytes()
    with image.Image.open(path):
        with pytest.raises(errors.ImageBusy, match="doesn't want it changed"):
            writer.Writer.open(path)
        with pytest.raises(errors.ImageBusy):
            repair.repair_leaks(path)
        with pytest.raises(errors.ImageBusy):
            create.set_backing_name(path, "base.qcow2")
    assert path.read_bytes() == before
    with writer.Writer.open(path) as target:
        target.write(0, bytes(512))


def test_closing_another_descriptor_of_the_file_leaves_the_locks_alone(path: pathlib.Path) -> None:
    with writer.Writer.open(path):
        os.close(os.open(path, os.O_RDWR))
        path.read_bytes()
        with pytest.raises(errors.ImageBusy):
            writer.Writer.open(path)


def test_a_refused_opener_leaves_no_locks_and_no_descriptor(path: pathlib.Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with image.Image.open(path):
        with pytest.raises(errors.ImageBusy):
            writer.Writer.open(path)
        with image.Image.open(path):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_locks_go_when_they_are_released_though_a_child_has_the_descriptor(path: pathlib.Path) -> None:
    fd = fsops.open_for_writing(path)
    locks.exclusive(fd, path.name)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[fd])
    try:
        os.close(fd)
        # The child has the open file description now, and its locks with it.
        with pytest.raises(errors.ImageBusy):
            image.Image.open(path)
    finally:
        child.communicate(b"\n")
    with image.Image.open(path):
        pass

    for kind in (writer.Writer, image.Image):
        opened = kind.open(path)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[opened._fd])
        try:
            opened.close()
            writer.Writer.open(path).close()
        finally:
            child.communicate(b"\n")


def test_a_snapshot_s_view_keeps_the_locks_of_its_image(path: pathlib.Path) -> None:
    subprocess.run(["qemu-img", "snapshot", "-c", "one", str(path)], check=True)
    opened = image.Image.open(path)
    opened.of_snapshot("one").close()
    with pytest.raises(errors.ImageBusy):
        repair.repair_leaks(path)
    view = opened.of_snapshot("one")
    opened.close()
    with pytest.raises(errors.ImageBusy):
        repair.repair_leaks(path)
    view.close()
    repair.repair_leaks(path)


def test_who_keeps_others_out_already_may_open_without_locks(path: pathlib.Path) -> None:
    with writer.Writer.open(path), image.Image.open(path, locked=False) as opened:
        assert opened.size_bytes == SIZE


def test_a_fold_refuses_a_layer_that_is_in_use(tmp_path: pathlib.Path) -> None:
    lower, child = tmp_path / "lower.qcow2", tmp_path / "child.qcow2"
    create.create(lower, size_bytes=SIZE)
    create.create(child, size_bytes=SIZE, backing_name="lower.qcow2")
    with writer.Writer.open(lower) as target:
        target.write(0, b"\x11" * 4096)
    with image.Image.open(lower) as below:
        with image.Image.open(child), pytest.raises(errors.ImageBusy):
            fold.fold_up(below, child, None)
        with image.Image.open(child) as above, pytest.raises(errors.ImageBusy):
            fold.fold_down(above, lower, None)
        fold.fold_up(below, child, None)
    with image.Image.open(child) as opened:
        buffer = bytearray(4096)
        chain.Chain([opened]).read_into(0, memoryview(buffer))
        assert buffer == b"\x11" * 4096
