"""The storage daemon is killed between any two commands that it is given, and what it leaves is looked at."""

import contextlib
import itertools
import pathlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from snapd import errors, model
from snapd.live import process as processes
from snapd.live import storage
from snapd.qcow2.checking import check
from tests.unit.live import world as worlds


class _Between:
    """Stands between us and a monitor, counts commands, and kills the process at one of them."""

    def __init__(self, path: pathlib.Path, process: processes.Process, at: int, *, done: bool) -> None:
        """Take the place of a socket; the process is killed before the at-th command reaches it, or when it is done."""
        self._process = process
        self._at = at
        self._done = done
        self.commands = 0
        self._real = path.with_name("real.sock")
        path.rename(self._real)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._run)

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._listening.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return  # nobody comes any more
            with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
                server.connect(str(self._real))
                self._relay(client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        client.sendall(self._answer(server))  # the greeting
        client.sendall(self._ask(server, client.recv(65536)))  # and what is agreed upon
        while command := client.recv(65536):
            self.commands += 1
            if self.commands == self._at and not self._done:
                return self._kill()
            answer = self._ask(server, command)
            if self.commands == self._at:
                return self._kill()
            client.sendall(answer)
        return None

    def _ask(self, server: socket.socket, command: bytes) -> bytes:
        server.sendall(command)
        answer = self._answer(server)
        while b'"return"' not in answer and b'"error"' not in answer:
            answer += self._answer(server)
        return answer

    def _answer(self, server: socket.socket) -> bytes:
        answer = b""
        while not answer.endswith(b"\n"):
            answer += server.recv(65536)
        return answer

    def _kill(self) -> None:
        self._process.kill()
        assert self._process.wait(10)


@contextlib.contextmanager
def _doomed(
    world: worlds.World, at: int, *, done: bool, volumes: list[worlds.Volume]
) -> Iterator[storage.StorageDaemon]:
    """Have a storage daemon with volumes that is killed at the at-th command that it is given from now on."""
    plan = world.plan()
    started = world.start(*volumes, plan=plan)
    started.close()
    process = world.launcher.find(plan, started.identity)
    assert process is not None
    between = _Between(plan.folder.qmp, process, at, done=done)
    daemon = storage.StorageDaemon(world.loop, plan, process)
    with between.standing(), contextlib.closing(daemon):
        yield daemon


@pytest.mark.parametrize("done", [False, True], ids=["before", "behind"])
def test_a_capture_that_is_killed_rolls_forward_and_loses_no_acknowledged_write(
    world: worlds.World, done: bool
) -> None:
    # Two questions, two overlays and the transaction, each of which it dies at; then one whole.
    for at in range(1, 7):
        volumes = [world.volume(world.layer()) for _ in range(2)]
        overlays = world.overlays(*volumes)
        with _doomed(world, at, done=done, volumes=volumes) as daemon:
            load = worlds.Load(daemon, *volumes)
            with load.running():
                load.wait(20)
                acknowledged = load.acknowledged
                with contextlib.ExitStack() as stack:
                    if at < 6:
                        stack.enter_context(pytest.raises(errors.StorageDaemonGone))
                    daemon.add_overlays([world.described(layer) for layer in overlays.values()])
                    daemon.switch({head: layer.uid for head, layer in overlays.items()})
            assert daemon.is_alive() == (at == 6)
            if at == 6:
                daemon.kill()
        _require_nothing_lost(world, volumes, overlays, acknowledged, load.acknowledged)


def _require_nothing_lost(
    world: worlds.World, volumes: list[worlds.Volume], overlays: dict[str, model.Layer], before: int, after: int
) -> None:
    """Roll forward as recovery does, and compare the frozen heads and the new ones with what was acknowledged."""
    frozen = worlds.require_prefix([world.contents(volume.layers) for volume in volumes], before)
    tops = [overlays[volume.layers[0].uid] for volume in volumes]
    whole = [world.contents([top, *volume.layers]) for top, volume in zip(tops, volumes, strict=True)]
    assert worlds.require_prefix(whole, after) >= frozen
    for layer in (*tops, *(volume.layers[0] for volume in volumes)):
        assert check.check(world.pool.path(layer.uid)).corruptions == 0


def _add(world: worlds.World, daemon: storage.StorageDaemon, volume: worlds.Volume) -> None:
    daemon.add(world.disk(volume, model.AttachmentWay.VHOST_USER_BLK))


def _remove(world: worlds.World, daemon: storage.StorageDaemon, volume: worlds.Volume) -> None:
    del world
    daemon.remove(volume.uid, [layer.uid for layer in volume.layers])


@pytest.mark.parametrize(("change", "there"), [(_add, False), (_remove, True)], ids=["comes", "goes"])
def test_a_disk_that_comes_or_goes_when_it_is_killed_leaves_whole_files(
    world: worlds.World, change: Callable[..., None], there: bool
) -> None:
    for at in itertools.count(1):
        volume = world.volume(world.layer())
        with _doomed(world, at, done=True, volumes=[volume] * there) as daemon:
            try:
                change(world, daemon, volume)
            except errors.StorageDaemonGone:
                assert not daemon.is_alive()
            else:
                assert at > 6
                return
        for layer in volume.layers:
            assert check.check(world.pool.path(layer.uid)).corruptions == 0
        assert not any(world.contents(volume.layers))
