import datetime

import click
import pytest

from snapd import units
from snapd.cli import names, parameters


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512", 512),
        ("0", 0),
        ("10K", 10 * units.KIB),
        ("10KiB", 10 * units.KIB),
        ("1.5G", 3 * units.GIB // 2),
        ("2 tib", 2 * units.TIB),
        ("512B", 512),
    ],
)
def test_sizes_are_read_in_powers_of_1024(text: str, size_bytes: int) -> None:
    assert parameters.SIZE.convert(text, None, None) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "10GB", "-1", "1e9", "0.3", "10 apples"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parameters.SIZE.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86_400), ("30m", 1_800), ("2s", 2), ("0s", 0), ("1h30m", 5_400), ("7d", 604_800)]
)
def test_durations_are_read_and_written(text: str, seconds: int) -> None:
    duration = parameters.DURATION.convert(text, None, None)
    assert duration == datetime.timedelta(seconds=seconds)
    assert parameters.DURATION.convert(parameters.format_duration(duration), None, None) == duration


@pytest.mark.parametrize("text", ["", "5", "h", "1h-2m", "1.5h", "1h 2m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parameters.DURATION.convert(text, None, None)


def test_a_label_may_have_an_empty_value_and_equals_signs_in_it() -> None:
    assert parameters.LABEL.convert("a=", None, None) == ("a", "")
    assert parameters.LABEL.convert("a=b=c", None, None) == ("a", "b=c")


def test_labels_are_set_and_taken_away() -> None:
    assert parameters.change_labels({"a": "1", "b": "2"}, [("b", "3"), ("c", "4")], ["a"]) == {"b": "3", "c": "4"}


def test_short_and_full_names_mean_the_same() -> None:
    full = "environments/blue/volumes/root"
    assert names.full("volumes", "root", "blue") == full
    assert names.full("volumes", "root", "environments/blue") == full
    assert names.full("volumes", full, "") == full
    assert names.full("volumes", full, "green") == full


def test_a_new_resource_may_be_unnamed() -> None:
    assert names.split("volumes", "", "blue") == ("environments/blue", "")
    assert names.split("volumes", "root", "blue") == ("environments/blue", "root")
