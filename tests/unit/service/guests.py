"""Attached volumes in tests: short ways to attach and detach them, and guests that write to them."""

import contextlib
import itertools
import pathlib
import threading
from collections.abc import Iterator
from contextlib import suppress

from snapd import errors, model, units
from snapd.live import process as processes
from snapd.service.attachments import AttachmentSpec, Shown
from tests import storagedaemons
from tests.unit.live import world as live
from tests.unit.service import world as worlds

BLOCK = 4 * units.KIB
SPEC = AttachmentSpec(model.AttachmentWay.NBD, read_only=False, writethrough=True, limits=model.Limits())


def attach(world: worlds.World, volume_id: str = "v", spec: AttachmentSpec = SPEC) -> Shown:
    """Attach a volume, and return where it is served."""
    volume, operation = world.service.attachments.attach(worlds.request("AttachVolume"), "e", volume_id, spec, "")
    assert (operation.done, operation.error) == (True, None)
    found = world.service.attachments.of(volume)
    assert found is not None
    assert found.attachment.state is model.AttachmentState.ATTACHED
    return found


def detach(world: worlds.World, volume_id: str = "v", *, force: bool = False) -> None:
    """Detach a volume."""
    world.service.attachments.detach(worlds.request("DetachVolume"), "e", volume_id, "", force)
    assert shown(world, volume_id) is None


def shown(world: worlds.World, volume_id: str = "v") -> Shown | None:
    """Return a volume's attachment."""
    return world.service.attachments.of(world.get_volume(volume_id))


def state(world: worlds.World, volume_id: str = "v") -> model.AttachmentState | None:
    """Return the state of a volume's attachment; None: it is detached."""
    found = shown(world, volume_id)
    return None if found is None else found.attachment.state


@contextlib.contextmanager
def guest(attached: Shown) -> Iterator[live.Guest]:
    """Connect as a guest, for the length of a block."""
    with contextlib.closing(live.Guest(pathlib.Path(attached.socket), attached.export)) as connected:
        yield connected


def process(world: worlds.World) -> processes.Process:
    """Return the only storage daemon that runs."""
    (only,) = storagedaemons.found(world.settings.live.exports_path)
    return only


def kill(world: worlds.World) -> None:
    """Kill the only storage daemon that runs."""
    assert storagedaemons.end(world.settings.live.exports_path) == 1


def require_prefix(contents: bytes, acknowledged: int) -> int:
    """Assert that a disk holds the first writes of a load, all that were answered, and return how many they are."""
    return live.require_prefix([contents], acknowledged)


def is_served(attached: Shown) -> bool:
    """Say whether a hypervisor can connect where a disk was attached."""
    try:
        with guest(attached):
            return True
    except (errors.StorageDaemonGone, errors.StorageDaemonRefused):
        return False


class Load:
    """A guest that writes numbered blocks, as `require_prefix` knows them, until it is stopped."""

    def __init__(self, attached: Shown) -> None:
        self._guest = live.Guest(pathlib.Path(attached.socket), attached.export)
        self._stop = threading.Event()
        self._told = threading.Condition()
        self.acknowledged = 0
        """Number of the last write that was answered."""
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with suppress(errors.StorageDaemonGone):
            for number in itertools.count(1):
                live.write_by_turn([self._guest], number)
                with self._told:
                    self.acknowledged = number
                    self._told.notify_all()
                if self._stop.is_set():
                    return

    def wait(self, more: int) -> None:
        """Wait until so many further writes were answered."""
        with self._told:
            target = self.acknowledged + more
            assert self._told.wait_for(lambda: self.acknowledged >= target, 60)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Write as long as the block runs, or the storage daemon does."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
            self._guest.close()
