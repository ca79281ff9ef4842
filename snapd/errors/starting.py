"""What keeps the daemon, or a tool, from starting; seen by operators only."""

import dataclasses

from snapd.errors.tree import StartupError


@dataclasses.dataclass(eq=False, kw_only=True)
class ConfigInvalid(StartupError):
    """The configuration file can't be used."""

    reason = "CONFIG_INVALID"
    summary = "{path}, line {line}: {problem}"
    advice = "Correct the line; docs/operations.md explains every key."
    path: str
    line: int
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class StateDirectoryBusy(StartupError):
    """Another daemon owns the state directory."""

    reason = "STATE_DIRECTORY_BUSY"
    summary = "{path} is in use by another daemon (pid {pid})"
    advice = "Stop the other daemon, or give this one a state directory of its own."
    path: str
    pid: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SocketBusy(StartupError):
    """Somebody listens on the socket path, or holds its lock."""

    reason = "SOCKET_BUSY"
    summary = "{path} is in use"
    advice = "Stop the server that listens there, or configure another path."
    path: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SocketPathUnusable(StartupError):
    """A socket path that is too long for the kernel, or is taken by something that is no socket."""

    reason = "SOCKET_PATH_UNUSABLE"
    summary = "{path}: {problem}"
    advice = "Configure a shorter path in a folder of the daemon's own."
    path: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SchemaTooOld(StartupError):
    """The catalog has yet to be brought up to date, which only the daemon does."""

    reason = "SCHEMA_TOO_OLD"
    summary = "{path} has schema {found}, and {needed} is needed"
    advice = "Start the daemon once: it brings the catalog up to date."
    path: str
    found: int
    needed: int


@dataclasses.dataclass(eq=False, kw_only=True)
class SchemaTooNew(StartupError):
    """The catalog was written by a newer release."""

    reason = "SCHEMA_TOO_NEW"
    summary = "{path} has schema {found}; this release knows schemas up to {known}"
    advice = "Start the newer release, or restore the catalog's backup from before the upgrade."
    path: str
    found: int
    known: int
