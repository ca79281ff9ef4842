"""The configuration file, checked at start: every mistake is answered with its path, its line and the reason.

Owns the names, the defaults and the limits of all keys; `docs/operations.md` explains them. Reads TOML into frozen
dataclasses and knows nothing of how they are used.
"""

import dataclasses
import datetime
import difflib
import os
import pathlib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from snapd import errors, units
from snapd.service import settings

DEFAULT_PATH = pathlib.Path("/etc/snapd-storage/config.toml")
STATE_DIRECTORY = pathlib.Path("/var/lib/snapd-storage")
RUN_DIRECTORY = pathlib.Path("/run/snapd-storage")
SOCKET_NAME = "snapd-storage.sock"

T = TypeVar("T")

_SIZE_UNITS = {"B": 1, "KiB": units.KIB, "MiB": units.MIB, "GiB": units.GIB, "TiB": units.TIB}
_SIZE = re.compile(r"(\d+) ?(B|KiB|MiB|GiB|TiB)")
_LOWEST_RATE = 64 * units.KIB
_HIGHEST_RATE = units.TIB
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+) ?(ms|s|m|h|d)")
_PERCENT = re.compile(r"(\d{1,2}) ?%")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_GROUP = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?")
_MODE = re.compile(r"0[0-7]{3}")

_TABLE_LINE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?")
_ARRAY_LINE = re.compile(r"\s*\[\[\s*([^\[\]]+?)\s*\]\]\s*(#.*)?")
_KEY_LINE = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")
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
    reader = _Reader(path, text, document)
    config = _build(reader, STATE_DIRECTORY, RUN_DIRECTORY)
    reader.refuse_unknown()
    for index, listener in enumerate(config.listeners):
        if any(listener.path == other.path for other in config.listeners[:index]):
            raise reader.refusal(f"listener[{index}].path", "another listener has this path")
    return config


def defaults(state_dir: pathlib.Path | None = None) -> Config:
    """Return the configuration without a file, with everything, sockets included, under state_dir if it is given."""
    reader = _Reader(pathlib.Path("built-in defaults"), "", {})
    if state_dir is None:
        return _build(reader, STATE_DIRECTORY, RUN_DIRECTORY)
    state_dir = state_dir.absolute()
    return _build(reader, state_dir, state_dir / "run")


def known_keys() -> list[str]:
    """Return the names of all keys, for whoever explains them."""
    reader = _Reader(pathlib.Path(), "", {})
    _build(reader, STATE_DIRECTORY, RUN_DIRECTORY)
    return reader.asked()


def _build(reader: "_Reader", state_dir: pathlib.Path, run_dir: pathlib.Path) -> Config:
    state_dir = reader.path("state_dir", state_dir)
    run_dir = reader.path("run_dir", run_dir)
    return Config(
        state_dir=state_dir,
        listeners=_listeners(reader, run_dir),
        settings=_settings(reader, state_dir),
        log_format=reader.choice("log.format", ("json", "console")),
        log_level=reader.choice("log.level", ("info", "debug", "warning", "error")),
        unary_calls=reader.integer("limits.unary_calls", 256, 1, 10_000),
        streams=reader.integer("limits.streams", 8, 1, 1_000),
        waits=reader.integer("limits.waits", 1_000, 1, 100_000),
        connections=reader.integer("limits.connections", 1_024, 1, 100_000),
        message_bytes=reader.size("limits.message_size", 4 * units.MIB, 2 * units.MIB, 64 * units.MIB),
    )


def _settings(reader: "_Reader", state_dir: pathlib.Path) -> settings.Settings:
    pool_path = reader.path("pool.path", state_dir / "pool")
    return settings.Settings(
        pool_path=pool_path,
        low_watermark_bytes=reader.watermark("pool.low_watermark", units.GIB, pool_path),
        copy_threads=reader.integer("pool.copy_threads", min(4, os.cpu_count() or 1), 1, 64),
        max_chain_depth=reader.integer("pool.max_chain_depth", 32, 2, 200),
        upload_expiry=reader.duration("pool.upload_expiry", "24h", "1m", "365d"),
        default_retention=reader.duration("snapshots.default_retention", "24h", "0s", "3650d"),
        archive_path=reader.path("archive.path", state_dir / "archive"),
        host=reader.name("archive.host", "local"),
        block_size=reader.power_of_two("archive.block_size", 256 * units.KIB, 64 * units.KIB, 4 * units.MIB),
        compression_level=reader.integer("archive.compression_level", 1, 1, 19),
        archive_workers=reader.integer("archiver.workers", 2, 1, 64),
        archive_workers_per_environment=reader.integer("archiver.workers_per_environment", 64, 1, 64),
        archive_bytes_per_second=reader.rate("archiver.bandwidth"),
        scrub_bytes_per_second=reader.rate("archiver.scrub_bandwidth"),
        retry_initial=reader.duration("archiver.retry_initial", "30s", "100ms", "1d"),
        retry_longest=reader.duration("archiver.retry_longest", "1h", "100ms", "7d"),
        catalog_path=state_dir / "catalog.sqlite3",
        index_path=state_dir / "archive-index.sqlite3",
    )


def _listeners(reader: "_Reader", run_dir: pathlib.Path) -> tuple[Listener, ...]:
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


class _Reader:
    """Takes values out of a document by dotted name, checks them, and knows at last which ones nobody asked for."""

    def __init__(self, path: pathlib.Path, text: str, document: Mapping[str, object]) -> None:
        self._path = path
        self._values = _flatten(document)
        self._lines = _lines_of_keys(text)
        self._asked: set[str] = set()

    def refusal(self, name: str, problem: str) -> errors.ConfigInvalid:
        """Return the error for a key."""
        line = self._lines.get(name, 1)
        return errors.ConfigInvalid(path=str(self._path), line=line, problem=f"{_shown(name)}: {problem}")

    def refuse_unknown(self) -> None:
        """Raise ConfigInvalid for the first key that no other method was asked for."""
        unknown = sorted(set(self._values) - self._asked, key=lambda name: self._lines.get(name, 1))
        if unknown:
            close = difflib.get_close_matches(_shown(unknown[0]), self.asked(), 1, 0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise self.refusal(unknown[0], f"no such key{hint}")

    def asked(self) -> list[str]:
        """Return the names that were asked for, without places in arrays."""
        return sorted({_shown(name) for name in self._asked})

    def _take(self, name: str, kind: type[T], expected: str) -> T | None:
        self._asked.add(name)
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.refusal(name, f"must be {expected}")
        return value

    def tables(self, name: str) -> Sequence[str]:
        """Return the prefixes of the tables of an array, such as 'listener[0].'."""
        if any(key == name or key.startswith(f"{name}.") for key in self._values):
            raise self.refusal(name, f"must be a table of an array: write [[{name}]]")
        found = [re.match(rf"{name}\[(\d+)\]", key) for key in self._values]
        count = max((int(match[1]) + 1 for match in found if match), default=0)
        # Asked for even where there is none, so that a misspelt key finds its neighbours.
        self._asked.update(f"{name}[].{key}" for key in ("path", "identity", "group", "mode"))
        return [f"{name}[{index}]." for index in range(count)]

    def path(self, name: str, default: pathlib.Path) -> pathlib.Path:
        value = self._take(name, str, "a path")
        if value is None:
            return default
        if not value.startswith("/") or "\0" in value:
            raise self.refusal(name, "must be an absolute path")
        return pathlib.Path(value)

    def integer(self, name: str, default: int, lowest: int, highest: int) -> int:
        expected = f"a whole number from {lowest} to {highest}"
        value = self._take(name, int, expected)
        if value is not None and not lowest <= value <= highest:
            raise self.refusal(name, f"must be {expected}")
        return default if value is None else value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Return one of the choices; the first is the default."""
        expected = f"one of {', '.join(choices)}"
        value = self._take(name, str, expected)
        if value is not None and value not in choices:
            raise self.refusal(name, f"must be {expected}")
        return choices[0] if value is None else value

    def matching(self, name: str, default: str, pattern: re.Pattern[str], expected: str) -> str:
        value = self._take(name, str, expected)
        if value is not None and not pattern.fullmatch(value):
            raise self.refusal(name, f"must be {expected}")
        return default if value is None else value

    def name(self, name: str, default: str) -> str:
        return self.matching(name, default, _NAME, "lower-case letters, digits and dashes, at most 63")

    def size(self, name: str, default: int, lowest: int, highest: int) -> int:
        shown = f'a size from {units.format_size(lowest)} to {units.format_size(highest)}, like "5GiB"'
        value = self._take(name, str, shown)
        if value is None:
            return default
        size_bytes = _scaled(value, _SIZE, lambda number, unit: number * _SIZE_UNITS[unit])
        if size_bytes is None or not lowest <= size_bytes <= highest:
            raise self.refusal(name, f"must be {shown}")
        return size_bytes

    def rate(self, name: str) -> int:
        """Return bytes per second; 0, which is the default, sets no limit."""
        shown = f'"unlimited" or a rate from {units.format_size(_LOWEST_RATE)}/s on, like "20MiB/s"'
        value = self._take(name, str, shown)
        if value is None or value == "unlimited":
            return 0
        rate = _scaled(value.removesuffix("/s"), _SIZE, lambda number, unit: number * _SIZE_UNITS[unit])
        if rate is None or not value.endswith("/s") or not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
            raise self.refusal(name, f"must be {shown}")
        return rate

    def power_of_two(self, name: str, default: int, lowest: int, highest: int) -> int:
        size_bytes = self.size(name, default, lowest, highest)
        if size_bytes & (size_bytes - 1):
            raise self.refusal(name, "must be a power of two")
        return size_bytes

    def watermark(self, name: str, default: int, folder: pathlib.Path) -> int:
        """Return a size in bytes, which may be given as a part of the file system that folder lies on."""
        value = self._take(name, str, 'a size like "5GiB" or a part like "5%"')
        percent = _PERCENT.fullmatch(value) if value is not None else None
        if percent is None:
            return self.size(name, default, 0, 1 << 60)
        while not folder.is_dir():
            folder = folder.parent
        status = os.statvfs(folder)
        return status.f_blocks * status.f_frsize * int(percent[1]) // 100

    def duration(self, name: str, default: str, lowest: str, highest: str) -> datetime.timedelta:
        shown = f'a time from {lowest} to {highest}, like "24h"'
        value = self._take(name, str, shown)
        period, least, most = (_period(text) for text in (default if value is None else value, lowest, highest))
        if period is None or least is None or most is None or not least <= period <= most:
            raise self.refusal(name, f"must be {shown}")
        return period


def _scaled(text: str, pattern: re.Pattern[str], scale: Callable[[int, str], T]) -> T | None:
    found = pattern.fullmatch(text)
    return scale(int(found[1]), found[2]) if found else None


def _period(text: str) -> datetime.timedelta | None:
    try:
        return _scaled(text, _DURATION, lambda number, unit: datetime.timedelta(seconds=number * _DURATION_UNITS[unit]))
    except OverflowError:
        return None


def _shown(name: str) -> str:
    """Return a key as it is written, without its place in an array."""
    return re.sub(r"\[\d*\]", "", name)


def _flatten(document: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return the leaves of a document by dotted name, arrays of tables as 'name[0].key'."""
    leaves: dict[str, object] = {}
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            leaves.update(_flatten(value, f"{name}."))
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                leaves.update(_flatten(item, f"{name}[{index}]."))
        else:
            leaves[name] = value
    return leaves


def _lines_of_keys(text: str) -> dict[str, int]:
    """Return the line of each key, since the parser doesn't tell."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        if found := _ARRAY_LINE.fullmatch(line):
            index = counts.get(found[1], 0)
            counts[found[1]] = index + 1
            prefix = f"{found[1]}[{index}]."
        elif found := _TABLE_LINE.fullmatch(line):
            prefix = f"{found[1]}."
        elif found := _KEY_LINE.match(line):
            name = re.sub("[\"']", "", found[1])
            lines.setdefault(f"{prefix}{name}", number)
    return lines
