import pathlib
from collections.abc import Iterator

import pytest

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
