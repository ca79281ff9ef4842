"""A pool with volumes, storage daemons that serve them, and guests that write."""

import dataclasses
import datetime
import itertools
import pathlib
import struct
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress

from snapd import errors, model, units
from snapd.live import direct, graph, launcher, nbd, qmp, storage
from snapd.live import process as processes
from snapd.pool import layers as pools

NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
SIZE = 8 * units.MIB
BLOCK = 4 * units.KIB
BLOCKS = 64
"""Of a disk that a guest writes: few, so that most are written several times."""

_READ = 0
_WRITE = 1


class Guest(nbd.Client):
    """A client that reads and writes as well, and is patient with a busy disk."""

    def __init__(self, path: pathlib.Path, name: str, *, timeout_s: float = 60.0) -> None:
        super().__init__(path, name, timeout_s=timeout_s)

    def write(self, offset: int, data: bytes) -> int:
        """Write, and return the error that is answered, or 0."""
        return self.ask(_WRITE, offset, len(data), data)[0]

    def send_reads(self, count: int) -> None:
        """Ask for the first sector many times, and wait for no answer."""
        self._send(struct.pack(">IHHQQI", 0x25609513, 0, _READ, 0, 0, units.SECTOR) * count)

    def read(self, offset: int, length: int) -> bytes:
        """Read."""
        code, data = self.ask(_READ, offset, length, receive=length)
        assert code == 0
        return data


@dataclasses.dataclass
class Volume:
    """A disk with its layers, from the top downwards."""

    uid: str
    layers: list[model.Layer]


class World:
    """Everything of one test."""

    def __init__(self, folder: pathlib.Path, loop: qmp.Loop, pool: pools.Pool) -> None:
        self.folder = folder
        self.loop = loop
        self.pool = pool
        self.launcher: launcher.Launcher = direct.Direct()
        self._daemons: list[storage.StorageDaemon] = []

    def plan(self, uid: str | None = None) -> launcher.Plan:
        """Return the plan of a storage daemon, a new one unless a uid is given."""
        named = uid or str(uuid.uuid4())
        return launcher.Plan(named, launcher.Folder(self.folder / "exports" / named))

    def layer(self, parent: model.Layer | None = None, size: int = SIZE) -> model.Layer:
        """Make an empty layer."""
        state = model.LayerState.HEAD
        made = model.Layer(str(uuid.uuid4()), None if parent is None else parent.uid, size, state, NOW)
        self.pool.create(made)
        return made

    def volume(self, *below: model.Layer, size: int = SIZE) -> Volume:
        """Make a volume with an empty head on frozen layers, given from the top downwards."""
        return Volume(str(uuid.uuid4()), [self.layer(below[0] if below else None, size), *below])

    def described(self, layer: model.Layer) -> graph.Layer:
        """Return a layer as the graph takes it."""
        return graph.Layer(layer.uid, self.pool.path(layer.uid))

    def disk(
        self, volume: Volume, way: model.AttachmentWay = model.AttachmentWay.NBD, *, read_only: bool = False
    ) -> graph.Disk:
        """Return a volume as it is exported."""
        chain = [self.described(layer) for layer in volume.layers]
        return graph.Disk(volume.uid, volume.layers[0].size_bytes, chain, way, read_only=read_only)

    def keep(self, daemon: storage.StorageDaemon) -> storage.StorageDaemon:
        """Have a storage daemon killed at the end of the test."""
        self._daemons.append(daemon)
        return daemon

    def start(self, *volumes: Volume, plan: launcher.Plan | None = None) -> storage.StorageDaemon:
        """Start a storage daemon with volumes."""
        disks = [self.disk(volume) for volume in volumes]
        return self.keep(storage.start(self.loop, self.launcher, plan or self.plan(), disks))

    def overlays(self, *volumes: Volume) -> dict[str, model.Layer]:
        """Make an overlay for each volume, by the uid of its head."""
        return {volume.layers[0].uid: self.layer(volume.layers[0]) for volume in volumes}

    def capture(self, daemon: storage.StorageDaemon, *volumes: Volume) -> None:
        """Freeze the heads of volumes in one moment."""
        overlays = self.overlays(*volumes)
        daemon.add_overlays([self.described(layer) for layer in overlays.values()])
        daemon.flush([volume.uid for volume in volumes])
        daemon.switch({head: layer.uid for head, layer in overlays.items()})
        for volume in volumes:
            self.pool.freeze(volume.layers[0].uid)
            volume.layers.insert(0, overlays[volume.layers[0].uid])

    def contents(self, layers: Sequence[model.Layer]) -> bytes:
        """Return what layers show that nobody writes, read by our own engine."""
        buffer = bytearray(layers[0].size_bytes)
        with self.pool.opened(layers) as chain:
            chain.read_into(0, memoryview(buffer))
        return bytes(buffer)

    def close(self) -> None:
        """Kill what runs, however it stands."""
        for daemon in self._daemons:
            found = processes.find(daemon.identity)
            if found is not None:
                found.kill()
                assert found.wait(10)
                found.close()
            daemon.close()


def stamp(number: int) -> bytes:
    """Return the block that the number-th write puts somewhere."""
    return number.to_bytes(8, "big") * (BLOCK // 8)


def place(number: int) -> int:
    """Return which block the number-th write overwrites."""
    return number * 37 % BLOCKS


def require_prefix(contents: Sequence[bytes], acknowledged: int) -> int:
    """Assert that disks hold the first writes, all of them up to some number, and return that number.

    The writes went to the disks by turns, one after the other; contents are those of the disks of one moment.
    """
    found = [
        [int.from_bytes(content[block * BLOCK : block * BLOCK + 8], "big") for block in range(BLOCKS)]
        for content in contents
    ]
    last = max(max(stamps) for stamps in found)
    expected = [[0] * BLOCKS for _ in contents]
    for number in range(1, last + 1):
        expected[number % len(contents)][place(number)] = number
    assert found == expected
    for content, stamps in zip(contents, found, strict=True):
        for block, number in enumerate(stamps):
            assert content[block * BLOCK : (block + 1) * BLOCK] == stamp(number)
        assert not any(content[BLOCKS * BLOCK :])
    assert last >= acknowledged
    return last


def write_by_turn(guests: Sequence[Guest], number: int) -> None:
    """Do the number-th write; disks have their turns."""
    assert guests[number % len(guests)].write(place(number) * BLOCK, stamp(number)) == 0


class Load:
    """A guest that writes numbers to disks by turns until it is told to stop."""

    def __init__(self, daemon: storage.StorageDaemon, *volumes: Volume) -> None:
        self._guests = [Guest(daemon.nbd_socket, volume.uid) for volume in volumes]
        self._stop = threading.Event()
        self._told = threading.Condition()
        self.acknowledged = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with suppress(errors.StorageDaemonGone):
            for number in itertools.count(1):
                write_by_turn(self._guests, number)
                self._tell(number)
                if self._stop.is_set():
                    return

    def _tell(self, number: int) -> None:
        with self._told:
            self.acknowledged = number
            self._told.notify_all()

    def wait(self, more: int) -> None:
        """Wait until so many further writes were acknowledged."""
        with self._told:
            target = self.acknowledged + more
            assert self._told.wait_for(lambda: self.acknowledged >= target, 60)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write as long as the block runs, or the storage daemon does."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
            for guest in self._guests:
                guest.close()


def write(daemon: storage.StorageDaemon, volume: Volume, offset: int, data: bytes) -> None:
    """Write as a guest that comes and goes."""
    with closing(Guest(daemon.nbd_socket, volume.uid)) as guest:
        assert guest.write(offset, data) == 0


def read(daemon: storage.StorageDaemon, volume: Volume, offset: int, length: int) -> bytes:
    """Read as a guest that comes and goes."""
    with closing(Guest(daemon.nbd_socket, volume.uid)) as guest:
        return guest.read(offset, length)
