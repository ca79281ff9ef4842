import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from snapd.live import launcher, qmp
from snapd.pool import layers as pools
from tests.unit.live import world as worlds

_MEMORY = "/dev/shm"
"""What a killed process leaves is the same there, and no time-out is met because the disk has others to serve."""


@contextmanager
def _folder() -> Iterator[pathlib.Path]:
    """Make a folder whose path is short enough for sockets, and that other accounts can go through."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    made = pathlib.Path(tempfile.mkdtemp(prefix="live-", dir=place))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """Make a folder of the test's own."""
    with _folder() as made:
        yield made


@pytest.fixture(scope="session")
def pool() -> Iterator[pools.Pool]:
    """Make the pool of all tests: its many folders take longer than most of them."""
    with _folder() as made:
        yield pools.Pool(made / "pool", 0)


@pytest.fixture(scope="session")
def loop() -> Iterator[qmp.Loop]:
    made = qmp.Loop()
    yield made
    made.close()


@pytest.fixture
def world(folder: pathlib.Path, loop: qmp.Loop, pool: pools.Pool) -> Iterator[worlds.World]:
    """A pool, and storage daemons that are killed at the end."""
    if shutil.which(launcher.PROGRAM) is None:
        pytest.skip(f"{launcher.PROGRAM} isn't installed")
    made = worlds.World(folder, loop, pool)
    yield made
    made.close()
