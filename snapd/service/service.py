"""The service: every part of it, wired once. This is all that the RPC layer sees."""

import logging
from collections.abc import Callable
from contextlib import ExitStack

from snapd import clock as clocks
from snapd import errors, fsops, model, pace
from snapd.archive import repository as repositories
from snapd.archive.backends import backend
from snapd.catalog import db
from snapd.pool import layers as pools
from snapd.pool import pins as pinning
from snapd.service import (
    archiver,
    archives,
    attachments,
    backups,
    chains,
    checking,
    collecting,
    comparison,
    deciding,
    environments,
    heads,
    jobs,
    keeper,
    operations,
    presence,
    problems,
    recovery,
    scrubber,
    setbacks,
    snapshot_attachments,
    stores,
    supervisor,
    transfers,
    upkeep,
    usage,
    volumes,
    work,
)
from snapd.service import core as cores
from snapd.service import snapshots as snapshot_service
from snapd.service.attaching import disks, groups, held
from snapd.service.intents import (
    archive,
    attach,
    capture,
    collect,
    create_volume,
    delete_snapshot,
    delete_volume,
    detach,
    fold,
    import_volume,
    live_capture,
    revert,
    scrub,
)
from snapd.service.settings import Settings

_log = logging.getLogger(__name__)


class Service:
    """The service."""

    def __init__(self, core: cores.Core) -> None:
        """Wire the parts; `open` is how one gets a service."""
        self._core = core
        collector = collecting.Collector(core)
        self._heads = heads.Heads(core)
        processes = groups.Groups(core)
        lent = disks.Disks(core, processes, held.Held(core))
        attaching, capturing = attach.Handler(core, lent), live_capture.Handler(core, lent)
        self._jobs = jobs.Jobs(
            core,
            {
                archive.KIND: archive.Handler(core),
                attach.KIND: attaching,
                collect.KIND: collect.Handler(core, collector),
                scrub.ENVIRONMENT: scrub.EnvironmentHandler(core),
                scrub.SNAPSHOT: scrub.SnapshotHandler(core),
                capture.KIND: capture.Handler(core, self._heads),
                create_volume.KIND: create_volume.Handler(core),
                delete_snapshot.KIND: delete_snapshot.Handler(core, self._stop_run),
                delete_volume.KIND: delete_volume.Handler(core, self._heads),
                detach.KIND: detach.Handler(core, lent),
                fold.KIND: fold.Handler(core),
                live_capture.KIND: capturing,
                import_volume.KIND: import_volume.Handler(core),
                revert.KIND: revert.Handler(core),
            },
        )
        self.work = work.Work(core)
        self._archiver = archiver.Archiver(core, self._jobs, self.work)
        self.transfers = transfers.Transfers(core, self._jobs, self._heads)
        self.checks = checking.Checks(core, self._heads, self.transfers.reading)
        self._keeper = keeper.Keeper(core, self._jobs, self.transfers, self.work, collector)
        self._scrubber = scrubber.Scrubber(core, self.work)
        self.backups = backups.Backups(core)
        self.environments = environments.Environments(core)
        self.usages = usage.Usages(core)
        self.chains = chains.Chains(core)
        self.volumes = volumes.Volumes(core, self._jobs, self._heads, self.transfers.active)
        self._decider = deciding.Decider(core, self._jobs, lent, {attach.KIND: attaching, live_capture.KIND: capturing})
        self.attachments = attachments.Attachments(
            core, self._jobs, self._heads, self.transfers.reading, lent, self._decider
        )
        self.snapshot_attachments = snapshot_attachments.SnapshotAttachments(core, self._jobs, lent, self._decider)
        self._supervisor = supervisor.Supervisor(core, self._decider, processes)
        self.snapshots = snapshot_service.Snapshots(core, self._jobs, self._decider)
        self.upkeep = upkeep.Upkeep(core, self._jobs)
        self.archives = archives.Archives(core)
        self.operations = operations.Operations(core, self._jobs, self.transfers.active)
        self.recovered = recovery.recover(core, self._jobs, self._heads, self._decider)
        setbacks.settle(core)
        self._clock_watch = setbacks.Watch(core)
        self.comparison = comparison.Comparison(core)

    @classmethod
    def open(cls, settings: Settings, clock: clocks.Clock, store: backend.Backend | None = None) -> "Service":
        """Open the stores and recover what an earlier process left; nothing runs in the background yet.

        The archive lies where the settings say, unless its store is given.

        Raises errors.StartupError, errors.StorageFailed, errors.StorageFull, errors.Corrupt, errors.ArchiveUnreachable.
        """
        with fsops.translated(settings.catalog_path.parent):
            fsops.make_directory(settings.catalog_path.parent)
            fsops.make_directory(settings.index_path.parent)
        presence.require(settings)
        with ExitStack() as opened:
            store = store or stores.store(settings, make=True)
            repository = stores.repository(settings, store, clock)
            opened.callback(repository.close)
            catalog = db.Catalog(settings.catalog_path)
            opened.callback(catalog.close)
            _connect(repository)
            core = cores.Core(
                settings=settings,
                clock=clock,
                catalog=catalog,
                pool=pools.Pool(settings.pool_path, settings.low_watermark_bytes),
                pins=pinning.Pins(),
                repository=repository,
                archive_pace=pace.Pace(clock, settings.archive_bytes_per_second),
                scrub_pace=pace.Pace(clock, settings.scrub_bytes_per_second),
            )
            service = cls(core)
            opened.pop_all()
        return service

    def _stop_run(self, snapshot_uid: str) -> None:
        self._archiver.stop_run(snapshot_uid)

    def start(self) -> None:
        """Begin the background work, with what recovery left for later first."""
        self._archiver.start()
        for intent in self.recovered.of(recovery.Outcome.RESUMED):
            if intent.kind == archive.KIND:
                self._archiver.take_up(intent)
            elif intent.kind in upkeep.KINDS.values():
                self.upkeep.submit(intent)
            else:
                self._jobs.submit(intent)
        self._core.pins.on_release(self._core.sweep)
        self._keeper.start()
        self._scrubber.start()
        self.backups.start()
        self.comparison.start()
        self._clock_watch.start()
        self._supervisor.start()

    def stop(self) -> None:
        """Park the background work, wait for it, and close the stores. Nobody may call any more."""
        self._core.controls.park()
        self._archiver.stop()
        self._keeper.stop()
        self._scrubber.stop()
        self.backups.stop()
        self.comparison.stop()
        self._clock_watch.stop()
        self._supervisor.stop()
        self.upkeep.stop()
        self._jobs.stop()
        self._heads.close_all()
        self._decider.close()
        self._core.repository.close()
        self._core.catalog.close()

    def subscribe(self, callback: Callable[[int], None]) -> None:
        """Call back with the newest revision after each commit, in the committing thread. It must not block."""
        self._core.catalog.subscribe(callback)

    def capacity(self) -> model.Capacity:
        """Return the space of the pool and of the archive."""
        core = self._core
        pool = core.pool.usage()
        archive, error = self._archive_capacity()
        return model.Capacity(
            pool_total=pool.total,
            pool_free=pool.free,
            pool_used=core.pool.used_bytes(),
            pool_watermark=core.pool.low_watermark_bytes,
            archive=archive,
            archive_error=error,
        )

    def _archive_capacity(self) -> tuple[model.ArchiveCapacity | None, model.Problem | None]:
        repository = self._core.repository
        try:
            repository.require_usable()
            return model.ArchiveCapacity(repository.free_bytes(), repository.stored_bytes()), None
        except (errors.Unavailable, errors.FailedPrecondition, errors.DataLoss, errors.StartupError) as error:
            return None, problems.describe(error)

    def archive_error(self) -> model.Problem | None:
        """Return what keeps the archive from being used, by what was last seen of it; asks nobody."""
        trouble = self._core.repository.trouble
        return None if trouble is None else problems.describe(trouble)


def _connect(repository: repositories.Repository) -> None:
    """Have the archive ready, if that can be: without it all goes on but what needs it, which tries again."""
    try:
        repository.connect()
    except errors.SnapdError as error:
        _log.error("the archive can't be used: %s. %s", error, error.advice)
