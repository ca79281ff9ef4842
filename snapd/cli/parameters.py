"""How sizes, durations and labels are written on the command line."""

import datetime
import re
from collections.abc import Iterable
from typing import Any, Final

import click

from snapd import units

_SIZE: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)(?:iB|(?<=\d)B)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "K": units.KIB, "M": units.MIB, "G": units.GIB, "T": units.TIB}
_DURATION_PART: Final = re.compile(r"(\d+)(d|h|m|s)")
_SECONDS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


class Size(click.ParamType[int]):
    """Bytes as `512`, `10G` or `10GiB`; units are powers of 1,024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is not a size such as 512, 10G or 10GiB", param, ctx)
        size_bytes = float(match["number"]) * _UNITS[match["unit"].upper()]
        if not size_bytes.is_integer():
            self.fail(f"{value!r} is not a whole number of bytes", param, ctx)
        return int(size_bytes)


class Duration(click.ParamType[datetime.timedelta]):
    """A length of time as `24h`, `1h30m`, `7d` or `0s`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime.timedelta:
        if isinstance(value, datetime.timedelta):
            return value
        parts = _DURATION_PART.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            self.fail(f"{value!r} is not a duration such as 24h, 30m or 1h30m", param, ctx)
        return datetime.timedelta(seconds=sum(int(number) * _SECONDS[unit] for number, unit in parts))


class Label(click.ParamType[tuple[str, str]]):
    """A label as `key=value`."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not (key and equals):
            self.fail(f"{value!r} is not key=value", param, ctx)
        return key, text


SIZE: Final = Size()
DURATION: Final = Duration()
LABEL: Final = Label()


def format_duration(duration: datetime.timedelta) -> str:
    """Return a duration as it can be written: '1d', '1h30m', '0s'."""
    seconds = round(duration.total_seconds())
    text = ""
    for unit, length in _SECONDS.items():
        count, seconds = divmod(seconds, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def change_labels(labels: dict[str, str], added: Iterable[tuple[str, str]], removed: Iterable[str]) -> dict[str, str]:
    """Return labels with some set and some taken away."""
    return {key: value for key, value in (labels | dict(added)).items() if key not in set(removed)}
