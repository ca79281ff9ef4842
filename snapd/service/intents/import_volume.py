"""Import a volume: bytes come in over a stream, or several, until the image is whole; then the volume is made of it.

Two intents after each other:

    upload          volume CREATING, upload row, operation, request; RAW: the layer's row too
                    the bytes go into the layer under its temporary name (RAW) or into the staging file (QCOW2); how far
                    they are safe is in the upload row. It waits for its client, over restarts too, until it expires.
    import_volume   opened when all bytes are safe, in the transaction that ends the upload
                    before that, RAW: the disk was looked at and bears no other format's signature; QCOW2: the image
                    was vetted. What is refused is given up as if its client had cancelled it.
      step 1        QCOW2: the image is rewritten as the layer, through a descriptor that is vetted again
      step 2        the layer is published                                     point import_volume.published
      commit        head HEAD, volume READY, staging gone                      point import_volume.before_commit
      undo          the layer is doomed, the volume FAILED
"""

import dataclasses
from contextlib import ExitStack, suppress

from snapd import errors, fsops, model
from snapd.catalog import db, journal, layers, operations, volumes
from snapd.copier import control as controls
from snapd.copier import convert
from snapd.qcow2.checking import vet
from snapd.qcow2.reading import chain
from snapd.qcow2.writing import writer
from snapd.service import core as cores
from snapd.service import descriptions
from snapd.service.intents import create_volume

UPLOAD = "upload"
KIND = "import_volume"

HEAD = "head"
"""Payload: uid of the layer that becomes the head; '' in the upload of an image whose size isn't known yet."""
FORMAT = "format"
"""Payload: a model.ImageFormat."""


class Handler:
    """The steps of import_volume."""

    reversible = True

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def run(self, intent: model.Intent, control: controls.Control) -> None:
        """Make the volume of what was uploaded."""
        core = self._core
        head = intent.payload[HEAD]
        if not core.pool.is_made(head):
            if intent.payload[FORMAT] == model.ImageFormat.QCOW2:
                self._convert(intent, control)
            core.pool.publish(head)
        fsops.point("import_volume.published")
        core.pool.remove_staging(intent.subject)
        fsops.point("import_volume.before_commit")
        control.check()
        with core.catalog.transaction() as tx:
            volume = volumes.by_uid(tx.connection, intent.subject)
            assert volume is not None
            layers.set_state(tx, head, model.LayerState.HEAD)
            ready = dataclasses.replace(volume, state=model.VolumeState.READY, head_layer=head, updated=core.now())
            volumes.put(tx, ready)
            operations.end(tx, intent.operation, core.now())
            journal.close_intent(tx, intent)

    def _convert(self, intent: model.Intent, control: controls.Control) -> None:
        core = self._core
        layer = layers.get(core.catalog.reader(), intent.payload[HEAD])
        # Given up in time, so that there is room to write down that it was.
        control.heed(core.pool.require_room)
        with ExitStack() as stack:
            source = stack.enter_context(vet.open_import(core.pool.staging_path(intent.subject)))
            target = stack.enter_context(writer.Writer.open(core.pool.prepare(layer, describe(core, intent))))
            convert.convert(chain.Chain([source]), target, core.settings.copy_threads, control)

    def undo(self, tx: db.Transaction, intent: model.Intent, problem: model.Problem) -> None:
        """Doom the layer and remove what was uploaded; fail the volume, or remove it if it was cancelled."""
        layers.doom(tx, intent.payload[HEAD])
        create_volume.withdraw_volume(tx, self._core, intent, problem)
        with suppress(errors.SnapdError):
            # If it can't be removed now, the next start does it.
            self._core.pool.remove_staging(intent.subject)


def describe(core: cores.Core, intent: model.Intent) -> bytes:
    """Return what the header of the head says that an upload, or the import of one, is making."""
    volume = volumes.by_uid(core.catalog.reader(), intent.subject)
    if volume is None:
        raise errors.NotFound(resource_type="volume", name=intent.subject)
    return descriptions.encode_head(descriptions.Head(intent.number, descriptions.owner_of(volume), None, None))
