"""What holds for every test: time is never judged, and a failure says how to have it again."""

import pathlib

import hypothesis
import pytest

from tests import records

hypothesis.settings.register_profile("snapd", deadline=None, print_blob=True)
hypothesis.settings.load_profile("snapd")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take --record."""
    parser.addoption("--record", type=pathlib.Path, help="Write what was done to daemons, and what came of it.")


def pytest_configure(config: pytest.Config) -> None:
    """Keep a record if one is asked for; of several workers the one that hears of all does."""
    path = config.getoption("--record")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(records.Record(path))
