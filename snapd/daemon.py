"""The composition root: puts the service behind its listeners, and sees to the process from its start to its end."""

import asyncio
import importlib.metadata
import os
import signal

import structlog

from snapd import clock, faults, lockfile, logs, model, notify
from snapd import config as configs
from snapd.rpc import identity, server, system
from snapd.service import service as services

GRACE_S = 30.0
"""How long calls under way may take to finish when the daemon stops."""

_UMASK = 0o077
_CAPABILITIES = ("archive.directory",)

_log = structlog.get_logger(__name__)


def run(config: configs.Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises errors.SnapdError if the daemon can't start."""
    os.umask(_UMASK)
    logs.configure(config.log_format, config.log_level)
    if faults.install():
        _log.warning("faults are installed: this daemon fails on purpose")
    lock = lockfile.acquire_state(config.state_dir)
    try:
        asyncio.run(_serve(config))
    finally:
        lock.close()


async def _serve(config: configs.Config) -> None:
    stopping = asyncio.Event()
    system_clock = clock.SystemClock()
    info = system.Info(
        version=_version(),
        started=system_clock.now(),
        capabilities=_CAPABILITIES,
        chain_depth=config.settings.max_chain_depth,
    )
    limits = identity.Limits(unary_calls=config.unary_calls, streams=config.streams, waits=config.waits)
    service = services.Service.open(config.settings, system_clock)
    try:
        edge = server.Server(service, limits, info, config.message_bytes, config.connections)
        watchdog = asyncio.create_task(_feed_watchdog(service))
        try:
            # Bound before there are threads that make files, since binding changes the umask.
            for listener in config.listeners:
                edge.listen(listener.path, listener.identity, listener.group, listener.mode)
            service.start()
            await edge.start()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stopping.set)
            notify.send(notify.READY)
            _log.info("serving", version=info.version, state_dir=str(config.state_dir))
            await stopping.wait()
            notify.send(notify.STOPPING)
            _log.info("stopping", grace_s=GRACE_S)
        finally:
            await edge.stop(GRACE_S)
            watchdog.cancel()
    finally:
        await asyncio.to_thread(service.stop)
    _log.info("stopped")


async def _feed_watchdog(service: services.Service) -> None:
    """Tell systemd that the event loop turns and the catalog can be read, as often as it wants to hear it."""
    interval_s = notify.watchdog_interval_s()
    if interval_s is None:
        return
    while True:
        service.environments.list(model.Query("", "", 1, "", "", "name"))
        notify.send(notify.ALIVE)
        await asyncio.sleep(interval_s)


def _version() -> str:
    try:
        return importlib.metadata.version("snapd-storage")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
