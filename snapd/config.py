"""The configuration file, checked at start: every mistake is answered with its path, its line and the reason.

Owns the names, the defaults and the limits of all keys; `docs/operations.md` explains them. Reads TOML into frozen
dataclasses and knows nothing of how they are used.
"""

import dataclasses
import grp
import os
import pathlib
import pwd
import re
import tomllib

from snapd import errors, model, units
from snapd import tomlvalues as values
from snapd.archive.backends import s3settings
from snapd.live import launcher
from snapd.service import settings

DEFAULT_PATH = pathlib.Path("/etc/snapd-storage/config.toml")
STATE_DIRECTORY = pathlib.Path("/var/lib/snapd-storage")
RUN_DIRECTORY = pathlib.Path("/run/snapd-storage")
SOCKET_NAME = "snapd-storage.sock"

_GROUP = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?")
_PROGRAM = re.compile(r"/?[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*")
_MODE = re.compile(r"0[0-7]{3}")
_URL = re.compile(r"(https?://[A-Za-z0-9.\[\]:_-]+/?)?")
_BUCKET = re.compile(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?")
_PREFIX = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*)?")
_REGION = re.compile(r"[a-z0-9-]{1,63}")

_SYNTAX_LINE = re.compile(r"\(at line (\d+), column \d+\)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A socket, which is also an identity: whoever may connect to it is it."""

    path: pathlib.Path
    identity: str
    group: str
    """Group of the socket and of its folder, or '' for the daemon's own."""
    mode: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration."""

    state_dir: pathlib.Path
    listeners: tuple[Listener, ...]
    settings: settings.Settings
    log_format: str
    """'json' or 'console'."""
    log_level: str
    unary_calls: int
    """Calls under way at most, for each identity; streams and waits likewise."""
    streams: int
    waits: int
    connections: int
    """Connections to each listener at most."""
    message_bytes: int


def load(path: pathlib.Path) -> Config:
    """Read and check a configuration file. Raises ConfigInvalid."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise errors.ConfigInvalid(path=str(path), line=1, problem=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise errors.ConfigInvalid(path=str(path), line=line, problem="this is not UTF-8 text") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _SYNTAX_LINE.search(str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise errors.ConfigInvalid(path=str(path), line=line, problem=f"this is not TOML: {error}") from error
    reader = values.Reader(path, text, document)
    config = _build(reader, STATE_DIRECTORY, RUN_DIRECTORY)
    reader.refuse_unknown()
    for index, listener in enumerate(config.listeners):
        if any(listener.path == other.path for other in config.listeners[:index]):
            raise reader.refusal(f"listener[{index}].path", "another listener has this path")
    return config


def defaults(state_dir: pathlib.Path | None = None) -> Config:
    """Return the configuration without a file, with everything, sockets included, under state_dir if it is given."""
    reader = values.Reader(pathlib.Path("built-in defaults"), "", {})
    if state_dir is None:
        return _build(reader, STATE_DIRECTORY, RUN_DIRECTORY)
    state_dir = state_dir.absolute()
    return _build(reader, state_dir, state_dir / "run")


def known_keys() -> list[str]:
    """Return the names of all keys, for whoever explains them."""
    reader = values.Reader(pathlib.Path(), "", {})
    _build(reader, STATE_DIRECTORY, RUN_DIRECTORY)
    return reader.asked()


def _build(reader: values.Reader, state_dir: pathlib.Path, run_dir: pathlib.Path) -> Config:
    state_dir = reader.path("state_dir", state_dir)
    run_dir = reader.path("run_dir", run_dir)
    return Config(
        state_dir=state_dir,
        listeners=_listeners(reader, run_dir),
        settings=_settings(reader, state_dir, run_dir),
        log_format=reader.choice("log.format", ("json", "console")),
        log_level=reader.choice("log.level", ("info", "debug", "warning", "error")),
        unary_calls=reader.integer("limits.unary_calls", 256, 1, 10_000),
        streams=reader.integer("limits.streams", 8, 1, 1_000),
        waits=reader.integer("limits.waits", 1_000, 1, 100_000),
        connections=reader.integer("limits.connections", 1_024, 1, 100_000),
        message_bytes=reader.size("limits.message_size", 4 * units.MIB, 2 * units.MIB, 64 * units.MIB),
    )


def _settings(reader: values.Reader, state_dir: pathlib.Path, run_dir: pathlib.Path) -> settings.Settings:
    pool_path = reader.path("pool.path", state_dir / "pool")
    return settings.Settings(
        pool_path=pool_path,
        low_watermark_bytes=reader.watermark("pool.low_watermark", units.GIB, pool_path),
        copy_threads=reader.integer("pool.copy_threads", min(8, 2 * (os.cpu_count() or 1)), 1, 64),
        max_chain_depth=reader.integer("pool.max_chain_depth", 32, 2, 200),
        upload_expiry=reader.duration("pool.upload_expiry", "24h", "1m", "365d"),
        default_retention=reader.duration("snapshots.default_retention", "24h", "0s", "3650d"),
        archive_path=reader.path("archive.path", state_dir / "archive"),
        bucket=_bucket(reader, state_dir),
        key_file=reader.secret_file("archive.key_file"),
        host=reader.name("archive.host", "local"),
        block_size=reader.power_of_two("archive.block_size", 256 * units.KIB, 64 * units.KIB, 4 * units.MIB),
        compression_level=reader.integer("archive.compression_level", 1, 1, 19),
        catalog_backup_interval=reader.duration("archive.catalog_backup_interval", "5m", "0s", "7d"),
        archive_workers=reader.integer("archiver.workers", 2, 1, 64),
        archive_workers_per_environment=reader.integer("archiver.workers_per_environment", 64, 1, 64),
        archive_bytes_per_second=reader.rate("archiver.bandwidth"),
        scrub_interval=reader.duration("archiver.scrub_interval", "30d", "0s", "3650d"),
        scrub_bytes_per_second=reader.rate("archiver.scrub_bandwidth"),
        retry_initial=reader.duration("archiver.retry_initial", "30s", "100ms", "1d"),
        retry_longest=reader.duration("archiver.retry_longest", "1h", "100ms", "7d"),
        catalog_path=state_dir / "catalog.sqlite3",
        index_path=state_dir / "archive-index.sqlite3",
        live=_live(reader, run_dir),
    )


def _live(reader: values.Reader, run_dir: pathlib.Path) -> settings.LiveSettings:
    """Return how attached volumes are served."""
    starter = model.Launcher(reader.choice("live.launcher", ("direct", "systemd")).upper())
    name = reader.matching("live.account", "", _GROUP, "the name of an account")
    account = _account(reader, name) if name else None
    if starter is model.Launcher.SYSTEMD and account is None:
        raise reader.refusal("live.account", "must be set, to the account that the unit names, since systemd starts it")
    if starter is model.Launcher.DIRECT and account is not None and os.geteuid() != 0:
        raise reader.refusal("live.account", "can be given to processes by root only, or by systemd: live.launcher")
    return settings.LiveSettings(
        # Beside the folder that goes with the daemon's unit, since what is in it outlives the daemon.
        exports_path=reader.path("live.exports", run_dir.with_name(f"{run_dir.name}-exports")),
        launcher=starter,
        program=reader.matching("live.program", launcher.PROGRAM, _PROGRAM, "the name of a program, or its path"),
        account=account,
        clients_gid=_gid(reader, "live.group"),
    )


def _account(reader: values.Reader, name: str) -> launcher.Account:
    try:
        found = pwd.getpwnam(name)
    except KeyError as error:
        raise reader.refusal("live.account", f"there is no account {name}") from error
    return launcher.Account(found.pw_uid, found.pw_gid)


def _gid(reader: values.Reader, key: str) -> int:
    """Return the number of a group, or -1 if none is named."""
    name = reader.matching(key, "", _GROUP, "the name of a group")
    try:
        return grp.getgrnam(name).gr_gid if name else -1
    except KeyError as error:
        raise reader.refusal(key, f"there is no group {name}") from error


def _bucket(reader: values.Reader, state_dir: pathlib.Path) -> s3settings.S3Settings | None:
    """Return the bucket in which the archive lies, or None if it lies in a folder."""
    store = reader.choice("archive.store", ("directory", "s3"))
    endpoint = reader.matching("archive.s3.endpoint", "", _URL, "a URL like https://s3.example.net:9000")
    bucket = reader.matching("archive.s3.bucket", "", _BUCKET, "the name of a bucket")
    prefix = reader.matching("archive.s3.prefix", "", _PREFIX, 'names with slashes between them, like "hosts/blue"')
    region = reader.matching("archive.s3.region", "us-east-1", _REGION, "the name of a region")
    credentials_file = reader.secret_file("archive.s3.credentials_file")
    ca_file = reader.text("archive.s3.ca_file", "a path")
    path_style = reader.flag("archive.s3.path_style", default=bool(endpoint))
    timeout = reader.duration("archive.s3.timeout", "30s", "100ms", "1h")
    retry_for = reader.duration("archive.s3.retry_for", "60s", "0s", "1h")
    if store != "s3":
        return None
    if not bucket:
        raise reader.refusal("archive.s3.bucket", "must be set, since archive.store is s3")
    if credentials_file is None:
        raise reader.refusal("archive.s3.credentials_file", "must be set, since archive.store is s3")
    if not reader.has("archive.host"):
        raise reader.refusal("archive.host", "must be set, since hosts share a bucket and each needs a name of its own")
    return s3settings.S3Settings(
        endpoint=endpoint or None,
        bucket=bucket,
        prefix=prefix,
        region=region,
        credentials=_credentials(reader, credentials_file),
        ca_file=ca_file or None,
        path_style=path_style,
        timeout=timeout,
        retry_for=retry_for,
        spool=state_dir / "spool",
    )


def _credentials(reader: values.Reader, path: pathlib.Path) -> s3settings.Credentials:
    """Return the two words of a file: access key and secret. What it holds is never repeated."""
    try:
        words = path.read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise reader.refusal("archive.s3.credentials_file", f"can't be read: {error}") from error
    if len(words) != 2:
        raise reader.refusal("archive.s3.credentials_file", f"{path} must hold an access key and its secret")
    return s3settings.Credentials(*words)


def _listeners(reader: values.Reader, run_dir: pathlib.Path) -> tuple[Listener, ...]:
    listeners: list[Listener] = []
    for table in reader.tables("listener") or ("",):
        listener = Listener(
            path=reader.path(f"{table}path", run_dir / SOCKET_NAME) if table else run_dir / SOCKET_NAME,
            identity=reader.name(f"{table}identity", "local") if table else "local",
            group=reader.matching(f"{table}group", "", _GROUP, "the name of a group") if table else "",
            mode=int(reader.matching(f"{table}mode", "0660", _MODE, 'like "0660"'), 8) if table else 0o660,
        )
        listeners.append(listener)
    return tuple(listeners)
