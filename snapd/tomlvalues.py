"""Values out of a TOML document by their dotted names, each checked: a mistake is told with its path, line and reason.

Knows no key; `config` does.
"""

import datetime
import difflib
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from snapd import errors, units

T = TypeVar("T")

_SIZE_UNITS = {"B": 1, "KiB": units.KIB, "MiB": units.MIB, "GiB": units.GIB, "TiB": units.TIB}
_SIZE = re.compile(r"(\d+) ?(B|KiB|MiB|GiB|TiB)")
_LOWEST_RATE = 64 * units.KIB
_HIGHEST_RATE = units.TIB
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+) ?(ms|s|m|h|d)")
_PERCENT = re.compile(r"(\d{1,2}) ?%")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TABLE_LINE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?")
_ARRAY_LINE = re.compile(r"\s*\[\[\s*([^\[\]]+?)\s*\]\]\s*(#.*)?")
_KEY_LINE = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")


class Reader:
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

    def has(self, name: str) -> bool:
        """Say whether a key was given."""
        return name in self._values

    def text(self, name: str, expected: str) -> str:
        return self._take(name, str, expected) or ""

    def flag(self, name: str, *, default: bool) -> bool:
        self._asked.add(name)
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise self.refusal(name, "must be true or false")
        return value

    def secret_file(self, name: str) -> pathlib.Path | None:
        """Return the path of a file that nobody but its owner can read.

        One without a slash is the name of a credential that systemd has put into $CREDENTIALS_DIRECTORY.
        """
        value = self._take(name, str, "a path, or the name of a credential")
        if value is None:
            return None
        folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
        if "/" not in value and not folder:
            raise self.refusal(name, "is the name of a credential, and systemd gave none")
        path = pathlib.Path(value if "/" in value else f"{folder}/{value}")
        if not path.is_absolute():
            raise self.refusal(name, "must be an absolute path, or the name of a credential")
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise self.refusal(name, f"{path}: {error.strerror}") from error
        if mode & 0o077:
            raise self.refusal(name, f"{path} can be read by others than its owner: chmod 600")
        return path

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
