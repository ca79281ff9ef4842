"""Telling systemd how the daemon is (sd_notify(3)). Does nothing where nobody asked for it."""

import os
import socket

import structlog

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"

_log = structlog.get_logger(__name__)


def send(state: str) -> None:
    """Send a state to whoever started the daemon, if the environment names a socket for that."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notification:
        try:
            notification.sendto(state.encode(), address)
        except OSError as error:
            # Whoever asked has gone away. That is no reason to stop serving.
            _log.warning("state not sent", state=state, problem=str(error))


def watchdog_interval_s() -> float | None:
    """Return how often ALIVE has to be sent, twice within systemd's own period; None if nobody watches."""
    period_us = os.environ.get("WATCHDOG_USEC", "")
    return int(period_us) / 2_000_000 if period_us.isdecimal() else None
