import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from snapd.live import launcher, qmp
from tests.unit.live import world as worlds


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder whose path is short enough for sockets."""
    made = pathlib.Path(tempfile.mkdtemp(prefix="live-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def loop() -> Iterator[qmp.Loop]:
    made = qmp.Loop()
    yield made
    made.close()


@pytest.fixture
def world(folder: pathlib.Path, loop: qmp.Loop) -> Iterator[worlds.World]:
    """A pool, and storage daemons that are killed at the end."""
    if shutil.which(launcher.PROGRAM) is None:
        pytest.skip(f"{launcher.PROGRAM} isn't installed")
    made = worlds.World(folder, loop)
    yield made
    made.close()
