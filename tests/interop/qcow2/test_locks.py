"""Our locks and QEMU's see each other, in both directions."""

import os
import pathlib
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from snapd import errors, units
from snapd.qcow2.checking import check, repair
from snapd.qcow2.reading import image
from snapd.qcow2.writing import writer

SIZE = units.MIB


@contextmanager
def _qemu_io(path: pathlib.Path, *flags: str) -> Iterator[None]:
    """Have qemu-io hold an image open for the length of a block."""
    command = ["qemu-io", "-f", "qcow2", *flags, str(path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(b"length\n")
        child.stdin.flush()
        answer = b""
        while b"MiB" not in answer:
            assert select.select([child.stdout], [], [], 60)[0], answer
            part = os.read(child.stdout.fileno(), 4096)
            assert part, answer
            answer += part
        yield
    finally:
        child.communicate(b"quit\n", timeout=60)


def _refusal(*command: str | pathlib.Path) -> str:
    """Run a tool that has to fail, and return what it says."""
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    assert done.returncode != 0, done.stdout
    return done.stderr


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    made = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(made), str(SIZE)], check=True)
    return made


def test_qemu_refuses_what_our_writer_has_open(path: pathlib.Path) -> None:
    with writer.Writer.open(path):
        assert 'Failed to get shared "write" lock' in _refusal("qemu-img", "info", path)
        assert 'Failed to get shared "write" lock' in _refusal("qemu-img", "check", path)
        assert 'Failed to get shared "write" lock' in _refusal("qemu-io", "-r", "-c", "read 0 512", path)
        assert 'Failed to get "write" lock' in _refusal("qemu-io", "-c", "write 0 512", path)
        # Who says that it doesn't mind may look.
        subprocess.run(["qemu-img", "info", "-U", str(path)], check=True, capture_output=True)
    subprocess.run(["qemu-img", "check", "-q", str(path)], check=True)


def test_qemu_reads_with_our_readers_and_refuses_to_write(path: pathlib.Path) -> None:
    with image.Image.open(path):
        subprocess.run(["qemu-img", "check", "-q", str(path)], check=True)
        subprocess.run(["qemu-io", "-r", "-c", "read 0 512", str(path)], check=True, capture_output=True)
        assert 'Failed to get "write" lock' in _refusal("qemu-io", "-c", "write 0 512", path)
        assert 'Failed to get "write" lock' in _refusal("qemu-img", "resize", path, "2M")
        assert 'Failed to get "write" lock' in _refusal("qemu-img", "check", "-r", "all", path)
    subprocess.run(["qemu-img", "resize", "-q", str(path), "2M"], check=True)


def test_we_refuse_what_qemu_writes(path: pathlib.Path) -> None:
    with _qemu_io(path):
        with pytest.raises(errors.ImageBusy):
            image.Image.open(path)
        with pytest.raises(errors.ImageBusy):
            writer.Writer.open(path)
        with pytest.raises(errors.ImageBusy):
            check.check(path)
        with pytest.raises(errors.ImageBusy):
            repair.repair_leaks(path)
    with writer.Writer.open(path) as target:
        target.write(0, b"\x22" * 512)


def test_we_read_with_qemus_readers_and_refuse_to_write(path: pathlib.Path) -> None:
    with _qemu_io(path, "-r"):
        with image.Image.open(path) as opened:
            assert opened.size_bytes == SIZE
        with pytest.raises(errors.ImageBusy):
            writer.Writer.open(path)


def test_we_refuse_what_qemu_exports_for_writing(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    ready = tmp_path / "pid"
    command = ["qemu-nbd", "-f", "qcow2", f"--socket={tmp_path / 'socket'}", "--persistent", "--fork"]
    subprocess.run([*command, f"--pid-file={ready}", str(path)], check=True)
    server = int(ready.read_text())
    try:
        with pytest.raises(errors.ImageBusy):
            image.Image.open(path)
    finally:
        os.kill(server, signal.SIGTERM)


def test_a_backing_file_that_a_guest_stands_on_is_read_by_both_and_written_by_none(path: pathlib.Path) -> None:
    overlay = path.with_name("overlay.qcow2")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", path.name, "-F", "qcow2", str(overlay)], check=True
    )
    with _qemu_io(overlay):
        with image.Image.open(path) as opened:
            assert opened.size_bytes == SIZE
        with pytest.raises(errors.ImageBusy):
            writer.Writer.open(path)
        with pytest.raises(errors.ImageBusy):
            image.Image.open(overlay)
