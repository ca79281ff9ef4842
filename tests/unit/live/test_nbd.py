import pathlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from snapd import errors
from snapd.live import nbd
from tests.unit.live import world as worlds

GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
_MAGIC = 0x3E889045565A9


@contextmanager
def _serving(path: pathlib.Path, answers: list[bytes]) -> Iterator[None]:
    """Give a client answers, one after each thing that it says, and then hang up."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def run() -> None:
            connection, _ = listening.accept()
            with connection, suppress(ConnectionError):
                for answer in answers[:-1]:
                    connection.sendall(answer)
                    connection.recv(4096)
                connection.sendall(answers[-1])

        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join()


def _reply(kind: int, data: bytes = b"", magic: int = _MAGIC) -> bytes:
    return struct.pack(">QIII", magic, 7, kind, len(data)) + data


_EXPORTED = _reply(3, struct.pack(">HQH", 0, 4096, 0b101)) + _reply(1)


def test_an_export_is_looked_at_and_flushed(world: worlds.World) -> None:
    volume = world.volume()
    daemon = world.start(volume)
    with closing(nbd.Client(daemon.nbd_socket, volume.uid)) as client:
        assert client.export == nbd.Export(worlds.SIZE, read_only=False, can_flush=True)
        client.flush()


def test_an_export_that_is_not_there_is_refused(world: worlds.World) -> None:
    daemon = world.start()
    with pytest.raises(errors.StorageDaemonRefused, match="no such export"):
        nbd.Client(daemon.nbd_socket, "nobody")


def test_a_socket_that_is_not_served_gives_a_typed_error(folder: pathlib.Path) -> None:
    with pytest.raises(errors.StorageDaemonGone):
        nbd.Client(folder / "nbd.sock", "one")


def test_a_server_that_does_not_answer_gives_a_typed_error_in_time(folder: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "nbd.sock"))
        listening.listen()
        with pytest.raises(errors.StorageDaemonBusy, match="doesn't answer"):
            nbd.Client(folder / "nbd.sock", "one", timeout_s=0.1)


@pytest.mark.parametrize(
    "answers",
    [
        [b"SSH-2.0-something or other\r\n"],
        [b"NBDMAGIC" + bytes(10)],
        [GREETING, _reply(1)],
        [GREETING, _reply(3, bytes(11)) + _reply(1)],
        [GREETING, _reply(1, magic=1)],
        [GREETING, struct.pack(">QIII", _MAGIC, 7, 3, 2**31)],
        [GREETING, _reply(2**31 + 2, b"because\xff")],
    ],
)
def test_a_server_that_can_not_be_understood_gives_a_typed_error(folder: pathlib.Path, answers: list[bytes]) -> None:
    with _serving(folder / "nbd.sock", answers), pytest.raises(errors.StorageDaemonRefused):
        nbd.Client(folder / "nbd.sock", "one")


@pytest.mark.parametrize("length", [0, 4, 17, 18, 30])
def test_a_server_that_hangs_up_gives_a_typed_error(folder: pathlib.Path, length: int) -> None:
    said = (GREETING + _EXPORTED)[:length]
    with (
        _serving(folder / "nbd.sock", [said[:18], said[18:]][: 1 + (length > 18)]),
        pytest.raises(errors.StorageDaemonGone),
    ):
        nbd.Client(folder / "nbd.sock", "one", timeout_s=0.5)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (struct.pack(">IIQ", 0x67446698, 0, 1), None),
        (struct.pack(">IIQ", 0x67446698, 28, 1), "error 28"),
        (struct.pack(">IIQ", 0x67446698, 0, 2), "understood"),
        (struct.pack(">IIQ", 1, 0, 1), "understood"),
    ],
)
def test_a_flush_is_done_or_says_why_not(folder: pathlib.Path, answer: bytes, expected: str | None) -> None:
    def flush() -> None:
        with closing(nbd.Client(folder / "nbd.sock", "one")) as client:
            client.flush()

    with _serving(folder / "nbd.sock", [GREETING, _EXPORTED, answer]):
        _raises(flush, expected)


def _raises(call: Callable[[], None], expected: str | None) -> None:
    if expected is None:
        call()
    else:
        with pytest.raises(errors.StorageDaemonRefused, match=expected):
            call()
