"""An archive whose folder is away for single calls, and back before anybody looks: no absence is believed."""

import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from snapd import errors
from snapd.archive import layout
from snapd.archive.backends import directory
from tests.unit.archive import archives

DATA = {0: archives.content("first"), 3: archives.content("second")}


class Flickering(directory.DirectoryBackend):
    """A store in whose place an empty folder lies while one thing is looked up."""

    def __init__(self, root: pathlib.Path) -> None:
        super().__init__(root, marker=layout.REPOSITORY)
        self.place = root
        self.hides = ""
        """What looks for keys with this in them don't see the store; '' for none."""

    def size(self, key: str) -> int | None:
        with self._hidden(key):
            return super().size(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._hidden(prefix):
            found = [*super().list(prefix)]
        yield from found

    @contextlib.contextmanager
    def _hidden(self, key: str) -> Iterator[None]:
        if not self.hides or self.hides not in key:
            yield
            return
        away = self.place.with_name("away")
        self.place.rename(away)
        self.place.mkdir()
        try:
            yield
        finally:
            self.place.rmdir()
            away.rename(self.place)


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Flickering:
    return Flickering(tmp_path / "archive")


@pytest.fixture
def archive(store: Flickering, tmp_path: pathlib.Path) -> Iterator[archives.Archive]:
    """An archive with one snapshot."""
    opened = archives.Archive.open(store, tmp_path / "index.sqlite3")
    opened.record("s", DATA)
    yield opened
    store.hides = ""
    opened.repository.close()


def test_a_deletion_does_not_leave_the_manifest(archive: archives.Archive, store: Flickering) -> None:
    store.hides = "/manifests/"
    with pytest.raises(errors.ArchiveUnreachable):
        archive.repository.delete_snapshot(archives.ENVIRONMENT, "s")
    store.hides = ""
    assert archive.repository.delete_snapshot(archives.ENVIRONMENT, "s")
    assert archive.keys("/manifests/") == []


def test_a_recording_does_not_come_twice(archive: archives.Archive, store: Flickering) -> None:
    store.hides = "/manifests/"
    with pytest.raises(errors.ArchiveUnreachable):
        archive.record("s", DATA)
    store.hides = ""
    with pytest.raises(errors.AlreadyExists):
        archive.record("s", DATA)


@pytest.mark.parametrize("hidden", ["/manifests/", "/packs/", "/tombstones/", "/moves/"])
def test_a_collection_takes_nothing(archive: archives.Archive, store: Flickering, hidden: str) -> None:
    before = archive.contents("s")
    store.hides = hidden
    with pytest.raises(errors.ArchiveUnreachable):
        archive.repository.upkeep.collect()
    store.hides = ""
    assert archive.contents("s") == before


@pytest.mark.parametrize("hidden", ["/manifests/", "/tombstones/", "/environments/"])
def test_an_adopter_does_not_seal_less_than_there_is(
    archive: archives.Archive, store: Flickering, tmp_path: pathlib.Path, hidden: str
) -> None:
    before = archive.contents("s")
    archive.repository.close()
    store.hides = hidden
    with pytest.raises(errors.ArchiveUnreachable):
        archives.Archive.open(store, tmp_path / "other" / "index.sqlite3", adopt=True)
    store.hides = ""
    adopter = archives.Archive.open(store, tmp_path / "other" / "index.sqlite3", adopt=True)
    try:
        assert adopter.contents("s") == before
    finally:
        adopter.repository.close()
