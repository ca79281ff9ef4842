import contextlib
import pathlib
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest

from snapd import errors
from snapd.rpc import sockets


@contextlib.contextmanager
def _listening(path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield server


def _bind(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address.removeprefix("unix:"))


def test_a_claimed_path_is_bound_with_its_mode_in_a_folder_for_its_group_only(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run" / "s.sock"
    claim = sockets.claim(path, mode=0o660)
    claim.bind(_bind)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    claim.close()


def test_the_group_of_a_socket_is_the_configured_one(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run" / "s.sock"
    claim = sockets.claim(path, group="root")
    claim.bind(_bind)
    assert (path.stat().st_gid, path.parent.stat().st_gid) == (0, 0)
    claim.close()


def test_a_socket_that_nobody_serves_is_removed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"
    with _listening(path):
        pass
    claim = sockets.claim(path)
    assert not path.exists()
    claim.close()


def test_a_socket_that_somebody_serves_is_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"
    with _listening(path):
        inode = path.stat().st_ino
        with pytest.raises(errors.SocketBusy):
            sockets.claim(path)
        assert path.stat().st_ino == inode


def test_a_socket_whose_server_is_too_busy_to_accept_is_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(str(path))
        with pytest.raises(errors.SocketBusy):
            sockets.claim(path)


def test_a_path_that_another_process_has_claimed_is_busy_until_that_process_is_gone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"
    program = (
        "import pathlib, sys; from snapd.rpc import sockets; claim = sockets.claim(pathlib.Path(sys.argv[1]));"
        "print('claimed', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"claimed\n"
        with pytest.raises(errors.SocketBusy):
            sockets.claim(path)
        other.kill()
        other.wait()
    sockets.claim(path).close()


@pytest.mark.parametrize("path", [f"/tmp/{'x' * 103}", "relative.sock", "/tmp/a%20b", "/tmp/a?b", "/tmp/a\nb"])
def test_a_path_that_cannot_be_bound_is_refused_in_our_own_words(path: str) -> None:
    with pytest.raises(errors.SocketPathUnusable):
        sockets.claim(pathlib.Path(path))


def test_a_path_of_107_bytes_can_be_bound(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    path = path.with_name("x" * (107 - len(str(tmp_path)) - 1))
    claim = sockets.claim(path)
    claim.bind(_bind)
    assert path.is_socket()
    claim.close()


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"
    path.write_text("precious")
    with pytest.raises(errors.SocketPathUnusable):
        sockets.claim(path)
    assert path.read_text() == "precious"


def test_an_unknown_group_is_refused_before_anything_is_made(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.SocketPathUnusable, match="there is no group"):
        sockets.claim(tmp_path / "run" / "s.sock", group="no-such-group")
    assert not (tmp_path / "run").exists()
