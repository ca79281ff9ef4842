import pathlib
from collections.abc import Iterator

import pytest

from tests import storagedaemons
from tests.unit.service import world as worlds


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[worlds.World]:
    """Run a service with an environment called `e`; at the end everything that it left is checked."""
    world = worlds.World(tmp_path)
    world.start()
    world.environment()
    try:
        yield world
        world.check()
    finally:
        world.stop()


@pytest.fixture
def lender(tmp_path: pathlib.Path) -> Iterator[worlds.World]:
    """Run a service with an environment `e` and a volume `v`; what it left is checked, and what it started is ended."""
    with storagedaemons.folder() as exports:
        world = worlds.World(tmp_path, exports)
        world.start()
        world.environment()
        world.volume("v")
        try:
            yield world
            world.check()
        finally:
            world.stop()
