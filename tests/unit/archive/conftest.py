import pathlib
from collections.abc import Iterator

import pytest

from snapd import fsops
from snapd.archive.backends import directory, memory
from tests.unit.archive import archives


@pytest.fixture
def archive(tmp_path: pathlib.Path) -> Iterator[archives.Archive]:
    """An archive in memory, with its index on disk."""
    opened = archives.Archive.open(memory.MemoryBackend(), tmp_path / "index.sqlite3")
    yield opened
    opened.repository.close()


@pytest.fixture
def archive_on_disk(tmp_path: pathlib.Path) -> Iterator[archives.Archive]:
    """An archive in a folder."""
    store = directory.DirectoryBackend(tmp_path / "archive")
    opened = archives.Archive.open(store, tmp_path / "index.sqlite3")
    yield opened
    opened.repository.close()


@pytest.fixture(autouse=True)
def no_observer() -> Iterator[None]:
    yield
    fsops.observe(None)
