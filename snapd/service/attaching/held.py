"""The layers under attached disks, pinned from the attach to the detach, as by any reader.

So no fold changes a file that a storage daemon has open, and a doomed layer keeps its file. Pins are in memory: after a
restart they are taken again before anything is swept. When the daemon stops they are not let go of, since the guests
read on.
"""

from snapd import model
from snapd.catalog import layers
from snapd.service import core as cores


class Held:
    """The pins, by the uid of the attachment."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core
        self._pins: dict[str, list[str]] = {}

    def hold(self, attachment_uid: str, top: str) -> list[model.Layer]:
        """Pin a layer and what it stands on, and return all, the top first. What was pinned before is let go then.

        A fold may change the chain until it is pinned, so the catalog is asked once more afterwards.
        """
        while True:
            below = self._chain(top)
            uids = [layer.uid for layer in below]
            self._core.pins.acquire(uids)
            if self._chain(top) == below:
                break
            self._core.pins.release(uids)
        earlier, self._pins[attachment_uid] = self._pins.get(attachment_uid, []), uids
        self._core.pins.release(earlier)
        return below

    def _chain(self, top: str) -> list[model.Layer]:
        return layers.chain(self._core.catalog.reader(), top)

    def release(self, attachment_uid: str) -> None:
        """Let go of what was pinned for an attachment, if anything was."""
        self._core.pins.release(self._pins.pop(attachment_uid, []))
