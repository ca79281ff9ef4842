import json
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from snapd import errors
from snapd.live import process as processes
from snapd.live import qmp
from tests.unit.live import world as worlds

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\r\n'
)


@contextmanager
def _serving(path: pathlib.Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Have the clients of a socket served by a function, one by one, as a storage daemon that misbehaves would."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def run() -> None:
            # Until the socket is shut down.
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, suppress(ConnectionError):
                        serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _greet(connection: socket.socket) -> None:
    connection.sendall(GREETING)
    told = json.loads(connection.recv(4096))
    connection.sendall(json.dumps({"return": {}, "id": told.get("id")}).encode() + b"\r\n")


def _hold(connection: socket.socket) -> None:
    """Wait for the client's leave."""
    while connection.recv(4096):
        pass


def test_commands_are_answered_refusals_are_told_and_events_are_heard(world: worlds.World) -> None:
    plan = world.plan()
    world.start(plan=plan).close()
    session = qmp.connect(world.loop, plan.folder.qmp, "one")
    assert session.execute("query-version")["qemu"]["major"] >= 7
    with pytest.raises(errors.StorageDaemonRefused, match="Failed to find") as refused:
        session.execute("blockdev-del", {"node-name": "nobody"})
    assert (refused.value.name, refused.value.command) == ("one", "blockdev-del")
    session.execute("blockdev-add", {"driver": "null-co", "node-name": "n", "size": 512})
    session.execute("block-export-add", {"type": "nbd", "id": "e", "node-name": "n"})
    session.execute("block-export-del", {"id": "e"})
    session.wait_event("BLOCK_EXPORT_DELETED", {"id": "e"})
    with pytest.raises(errors.StorageDaemonBusy, match="no BLOCK_EXPORT_DELETED"):
        session.wait_event("BLOCK_EXPORT_DELETED", {"id": "e"}, timeout_s=0.01)
    session.close()
    with pytest.raises(errors.StorageDaemonBusy, match="given up"):
        session.execute("query-version")


def test_a_second_client_gets_no_greeting_and_is_served_when_the_first_has_left(world: worlds.World) -> None:
    plan = world.plan()
    world.start(plan=plan).close()
    session = qmp.connect(world.loop, plan.folder.qmp, "one")
    begun = time.monotonic()
    with pytest.raises(errors.StorageDaemonBusy, match="no greeting"):
        qmp.connect(world.loop, plan.folder.qmp, "two", timeout_s=0.2)
    assert time.monotonic() - begun < 1.5
    session.close()
    qmp.connect(world.loop, plan.folder.qmp, "two").close()


def test_a_process_that_ends_gives_a_typed_error(world: worlds.World) -> None:
    plan = world.plan()
    daemon = world.start(plan=plan)
    daemon.close()
    session = qmp.connect(world.loop, plan.folder.qmp, "one")
    found = processes.find(daemon.identity)
    assert found is not None
    found.kill()
    assert found.wait(10)
    found.close()
    with pytest.raises(errors.StorageDaemonGone, match="before NEVER"):
        session.wait_event("NEVER", {})
    with pytest.raises(errors.StorageDaemonGone, match="hung up"):
        session.execute("query-version")
    with pytest.raises(errors.StorageDaemonGone, match="refused"):
        qmp.connect(world.loop, plan.folder.qmp, "one")


def test_a_socket_that_is_not_there_gives_a_typed_error(folder: pathlib.Path, loop: qmp.Loop) -> None:
    with pytest.raises(errors.StorageDaemonGone, match="No such file"):
        qmp.connect(loop, folder / "qmp.sock", "one")


def test_a_queue_of_connections_that_is_full_gives_a_typed_error(folder: pathlib.Path, loop: qmp.Loop) -> None:
    path = folder / "qmp.sock"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(str(path))
        listening.listen(0)
        waiting.connect(str(path))
        with pytest.raises(errors.StorageDaemonBusy, match="queue"):
            qmp.connect(loop, path, "one", timeout_s=0.2)


def test_an_answer_that_does_not_come_in_time_gives_the_session_up(folder: pathlib.Path, loop: qmp.Loop) -> None:
    def serve(connection: socket.socket) -> None:
        _greet(connection)
        _hold(connection)

    with _serving(folder / "qmp.sock", serve):
        session = qmp.connect(loop, folder / "qmp.sock", "one")
        with pytest.raises(errors.StorageDaemonBusy, match="query-version took longer"):
            session.execute("query-version", timeout_s=0.1)
        assert not session.is_open


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400\r\n", b"[]\r\n", b'{"QMP": 1}\r\n', b'{"QMP"', b"\xff\xfe\r\n", b'{"event": "A"}\r\n']
)
def test_what_is_no_qmp_gives_a_typed_error(folder: pathlib.Path, loop: qmp.Loop, greeting: bytes) -> None:
    with (
        _serving(folder / "qmp.sock", lambda connection: connection.sendall(greeting)),
        pytest.raises((errors.StorageDaemonRefused, errors.StorageDaemonGone)),
    ):
        qmp.connect(loop, folder / "qmp.sock", "one")


def test_an_answer_to_who_hung_up_before_is_not_taken_for_a_greeting(folder: pathlib.Path, loop: qmp.Loop) -> None:
    served = 0

    def serve(connection: socket.socket) -> None:
        nonlocal served
        served += 1
        if served == 1:
            connection.sendall(b'{"return": {}, "id": "__qmp#00007"}\r\n')
        else:
            _greet(connection)
        _hold(connection)

    with _serving(folder / "qmp.sock", serve):
        session = qmp.connect(loop, folder / "qmp.sock", "one")
        assert session.is_open
        session.close()
    assert served == 2


@pytest.mark.parametrize("answer", [b"[1, 2]\r\n", b"nonsense\r\n", b'{"error": {"class": "A", "desc": "b"}}\r\n'])
def test_an_answer_that_can_not_be_understood_gives_a_typed_error(
    folder: pathlib.Path, loop: qmp.Loop, answer: bytes
) -> None:
    def serve(connection: socket.socket) -> None:
        _greet(connection)
        connection.recv(4096)
        connection.sendall(answer)
        _hold(connection)

    with _serving(folder / "qmp.sock", serve):
        session = qmp.connect(loop, folder / "qmp.sock", "one")
        with pytest.raises(errors.StorageDaemonRefused, match="can't be understood"):
            session.execute("query-version")
        assert not session.is_open


def test_an_answer_without_end_is_cut_off(folder: pathlib.Path, loop: qmp.Loop) -> None:
    sent = 0

    def serve(connection: socket.socket) -> None:
        nonlocal sent
        _greet(connection)
        connection.recv(4096)
        try:
            while True:
                sent += connection.send(b" " * 65536)
        except OSError:
            pass  # the client has had enough

    with _serving(folder / "qmp.sock", serve):
        session = qmp.connect(loop, folder / "qmp.sock", "one")
        with pytest.raises(errors.StorageDaemonRefused, match="can't be understood"):
            session.execute("query-version")
    assert sent < 4 * qmp._LONGEST_REPLY


def test_of_events_that_nobody_waits_for_only_the_last_are_kept(folder: pathlib.Path, loop: qmp.Loop) -> None:
    def serve(connection: socket.socket) -> None:
        _greet(connection)
        for number in range(qmp._MOST_EVENTS + 10):
            event = {"event": "E", "data": {"number": number}, "timestamp": {"seconds": 0, "microseconds": 0}}
            connection.sendall(json.dumps(event).encode() + b"\r\n")
        _hold(connection)

    with _serving(folder / "qmp.sock", serve):
        session = qmp.connect(loop, folder / "qmp.sock", "one")
        session.wait_event("E", {"number": qmp._MOST_EVENTS + 9})
        session.wait_event("E", {"number": 11})
        with pytest.raises(errors.StorageDaemonBusy):
            session.wait_event("E", {"number": 9}, timeout_s=0.01)
        session.forget_events()
        with pytest.raises(errors.StorageDaemonBusy):
            session.wait_event("E", {}, timeout_s=0.01)
        session.close()
