"""Attachments: volumes lent to guests, each served by the storage daemon of its group."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from snapd import errors, model
from snapd.catalog import attachments, db, storagedaemons, volumes
from snapd.service import core as cores
from snapd.service import deciding, lookup, names, problems, states, transfers
from snapd.service import heads as heading
from snapd.service import jobs as running
from snapd.service.attaching import disks as disking
from snapd.service.attaching import groups as grouping
from snapd.service.intents import attach, detach


@dataclasses.dataclass(frozen=True, slots=True)
class AttachmentSpec:
    """How a volume is to be lent."""

    way: model.AttachmentWay
    read_only: bool
    writethrough: bool
    limits: model.Limits


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """An attachment as it is told: with where it is served, and whether it is."""

    attachment: model.Attachment
    generation: int
    socket: str
    export: str
    """Name under which it is exported, where a socket serves several."""
    problem: model.Problem | None
    """Why it is STALLED."""


class Attachments:
    """The attachments of all environments."""

    def __init__(
        self,
        core: cores.Core,
        jobs: running.Jobs,
        heads: heading.Heads,
        reading: transfers.Reading,
        disks: disking.Disks,
        decider: deciding.Decider,
    ) -> None:
        self._core = core
        self._jobs = jobs
        self._heads = heads
        self._reading = reading
        self._disks = disks
        self._decider = decider

    # --- reading ------------------------------------------------------------------------------------------------------

    def of(self, disk: model.Volume | model.Snapshot) -> Shown | None:
        """Return the attachment of a volume or a snapshot; None: it is detached."""
        reader = self._core.catalog.reader()
        found = attachments.of_disk(reader, disk.uid)
        daemon = None if found is None else storagedaemons.find(reader, found.storage_daemon)
        if found is None or daemon is None:
            return None
        trouble = self._disks.groups.trouble(daemon.uid)
        if trouble is not None and found.state is model.AttachmentState.ATTACHED:
            found = dataclasses.replace(found, state=model.AttachmentState.STALLED)
        socket = self._disks.groups.socket(daemon, found.way, disk.uid)
        problem = None if trouble is None else problems.describe(trouble)
        return Shown(found, daemon.generation, str(socket), disk.uid, problem)

    # --- changing -----------------------------------------------------------------------------------------------------

    def attach(
        self, request: model.Request, environment_id: str, volume_id: str, spec: AttachmentSpec, etag: str
    ) -> tuple[model.Volume, model.Operation]:
        """Lend a volume to its instance; it is ATTACHED when this returns. One that has CRASHED is attached anew.

        Raises errors.NotFound, errors.WrongState, errors.VolumeAttached, errors.EtagMismatch, errors.ImageBusy,
        errors.StorageDaemonMissing, StorageDaemonGone, StorageDaemonBusy, StorageDaemonRefused, errors.StorageFailed.
        """
        core = self._core
        uid = lookup.volume(core.catalog.reader(), environment_id, volume_id).uid
        with core.locks.holding(uid):
            self._decider.decide_open(uid)
            earlier = lookup.earlier(core.catalog.reader(), request)
            if earlier is not None:
                return self._again(earlier)
            self._disks.groups.require_program()
            volume = lookup.volume(core.catalog.reader(), environment_id, volume_id)
            with self._group(volume) as daemon:
                with core.catalog.transaction() as tx:
                    self._require_attachable(tx, uid, environment_id, volume_id, etag)
                self._heads.settle(uid)
                self._disks.clear_crashed(uid)
                intent = self._begin_attach(request, environment_id, uid, spec, daemon)
                self._jobs.run_now(intent)
        return self._present(uid, intent)

    def _require_attachable(
        self, tx: db.Transaction, uid: str, environment_id: str, volume_id: str, etag: str
    ) -> model.Volume:
        """Return the volume as it is now, if it can be attached."""
        name = names.volume(environment_id, volume_id)
        volume = _still(tx, uid, name)
        lookup.require_etag(name, volume.revision, etag)
        states.require_volume("AttachVolume", name, volume.state)
        self._core.require_detached(uid)
        if self._reading.is_read(volume.head_layer):
            raise errors.WrongState(
                name=name, state="being exported or checked", method="AttachVolume", allowed="read by nobody"
            )
        return volume

    @contextmanager
    def _group(self, volume: model.Volume) -> Iterator[model.StorageDaemon]:
        """Hold the mutex of a volume's group, and yield its storage daemon: one that runs, or one yet to be started.

        Those that are gone are started anew or buried. Raises errors.StorageDaemonBusy, errors.StorageDaemonRefused.
        """
        core = self._core
        new = self._disks.groups.new(volume.environment_uid, volume.instance)
        with core.locks.holding(grouping.key(new)):
            for daemon in storagedaemons.of_instance(core.catalog.reader(), volume.environment_uid, volume.instance):
                found = self._decider.present(daemon)
                if found is not None:
                    yield found
                    return
            yield new

    def _begin_attach(
        self,
        request: model.Request,
        environment_id: str,
        uid: str,
        spec: AttachmentSpec,
        daemon: model.StorageDaemon,
    ) -> model.Intent:
        core = self._core
        now = core.now()
        with core.catalog.transaction() as tx:
            lookup.require_new(tx.connection, request)
            volume = _still(tx, uid, names.volume(environment_id, uid))
            attachment = model.Attachment(
                uid=names.new_uid(),
                volume_uid=uid,
                snapshot_uid=None,
                storage_daemon=daemon.uid,
                way=spec.way,
                state=model.AttachmentState.ATTACHING,
                read_only=spec.read_only,
                writethrough=spec.writethrough,
                limits=spec.limits,
                top=None,
                created=now,
            )
            operation = self._accept(tx, request, "AttachVolume", environment_id, volume)
            volumes.touch(tx, uid, now)
            return attach.begin(tx, daemon, attachment, operation, now)

    def _accept(
        self, tx: db.Transaction, request: model.Request, method: str, environment_id: str, volume: model.Volume
    ) -> model.Operation:
        environment = lookup.environment(tx.connection, environment_id)
        name = names.volume(environment_id, volume.id)
        operation = self._core.new_operation(method, environment, name, volume.uid)
        return lookup.accept(tx, request, operation, volume.uid)

    def detach(
        self, request: model.Request, environment_id: str, volume_id: str, etag: str, force: bool
    ) -> tuple[model.Volume, model.Operation]:
        """Take a volume back, whoever is connected; it is detached when this returns.

        `force` kills the storage daemon, which must serve no other disk: what the guest did not flush may be lost.
        Raises errors.NotFound, errors.WrongState, errors.EtagMismatch, errors.ImageBusy, errors.StorageDaemonBusy,
        errors.StorageDaemonRefused, errors.StorageFailed; the volume is DETACHING until another try succeeds.
        """
        core = self._core
        uid = lookup.volume(core.catalog.reader(), environment_id, volume_id).uid
        with core.locks.holding(uid):
            if force and lookup.earlier(core.catalog.reader(), request) is None:
                name = names.volume(environment_id, volume_id)
                with core.catalog.transaction() as tx:
                    self._require_detachable(tx, name, uid, etag)
                self._kill(uid, name)
            self._decider.decide_open(uid)
            earlier = lookup.earlier(core.catalog.reader(), request)
            if earlier is not None:
                return self._again(earlier)
            with self._decider.lent(uid):
                intent = self._begin_detach(request, environment_id, volume_id, uid, etag)
                self._jobs.run_now(intent)
        return self._present(uid, intent)

    def _begin_detach(
        self, request: model.Request, environment_id: str, volume_id: str, uid: str, etag: str
    ) -> model.Intent:
        core = self._core
        with core.catalog.transaction() as tx:
            lookup.require_new(tx.connection, request)
            name = names.volume(environment_id, volume_id)
            volume, attachment = self._require_detachable(tx, name, uid, etag)
            operation = self._accept(tx, request, "DetachVolume", environment_id, volume)
            volumes.touch(tx, uid, core.now())
            return detach.begin(tx, attachment, operation, core.now())

    def _require_detachable(
        self, tx: db.Transaction, name: str, uid: str, etag: str
    ) -> tuple[model.Volume, model.Attachment]:
        """Return the volume and its attachment as they are now, if it can be detached."""
        volume = _still(tx, uid, name)
        lookup.require_etag(name, volume.revision, etag)
        states.require_volume("DetachVolume", name, volume.state)
        return volume, detach.require_attached(tx, uid, name, "DetachVolume")

    def set_limits(
        self, request: model.Request, environment_id: str, volume_id: str, etag: str, limits: model.Limits
    ) -> model.Volume:
        """Change what the guest of a volume may do in a second: in the row first, then in the process.

        So they are set whatever becomes of the process: it is told again whenever it is adopted. Raises
        errors.NotFound, errors.WrongState, errors.EtagMismatch, errors.StorageDaemonBusy, errors.StorageDaemonRefused.
        """
        core = self._core
        uid = lookup.volume(core.catalog.reader(), environment_id, volume_id).uid
        name = names.volume(environment_id, volume_id)
        with core.locks.holding(uid):
            self._decider.decide_open(uid)
            with self._decider.lent(uid):
                with core.catalog.transaction() as tx:
                    attachment = self._limited(tx, name, uid)
                    if lookup.earlier(tx.connection, request) is None:
                        lookup.require_etag(name, _still(tx, uid, name).revision, etag)
                        attachments.put(tx, dataclasses.replace(attachment, limits=limits))
                        volumes.touch(tx, uid, core.now())
                        lookup.remember(tx, request, uid, core.now())
                if attachment.state is model.AttachmentState.ATTACHED:
                    self._disks.set_limits(attachment.uid)
        volume = volumes.by_uid(core.catalog.reader(), uid)
        assert volume is not None
        return volume

    def _limited(self, tx: db.Transaction, name: str, uid: str) -> model.Attachment:
        """Return the attachment whose limits are to be changed."""
        states.require_volume("SetVolumeLimits", name, _still(tx, uid, name).state)
        return detach.require_attached(tx, uid, name, "SetVolumeLimits")

    def _kill(self, uid: str, name: str) -> None:
        """Kill the storage daemon of a volume, if it serves no other."""
        reader = self._core.catalog.reader()
        attachment = attachments.of_disk(reader, uid)
        if attachment is None:
            return
        daemon = storagedaemons.get(reader, attachment.storage_daemon)
        with self._core.locks.holding(grouping.key(daemon)):
            if len(attachments.of_daemon(self._core.catalog.reader(), daemon.uid)) != 1:
                raise errors.WrongState(
                    name=name, state="served together with others", method="DetachVolume", allowed="alone to be forced"
                )
            self._disks.groups.kill(daemon)

    # --- answers ------------------------------------------------------------------------------------------------------

    def _again(self, earlier: tuple[str, model.Operation | None]) -> tuple[model.Volume, model.Operation]:
        """Return what the first try of a request made, as it is now."""
        uid, operation = earlier
        volume = volumes.by_uid(self._core.catalog.reader(), uid)
        if volume is None or operation is None:
            raise errors.NotFound(resource_type="volume", name="" if operation is None else operation.target)
        return volume, operation

    def _present(self, uid: str, intent: model.Intent) -> tuple[model.Volume, model.Operation]:
        volume = volumes.by_uid(self._core.catalog.reader(), uid)
        assert volume is not None
        return volume, self._core.operation(intent.operation)


def _still(tx: db.Transaction, uid: str, name: str) -> model.Volume:
    """Return the volume whose mutex is held, as it is now. Raises errors.NotFound if it is gone."""
    volume = volumes.by_uid(tx.connection, uid)
    if volume is None:
        raise errors.NotFound(resource_type="volume", name=name)
    return volume
