"""What only a store in a folder can meet: the folder goes while it is used."""

import pathlib

import pytest

from snapd import errors, fsops
from snapd.archive.backends import directory
from tests.unit.service import faults


@pytest.mark.parametrize("operation", ["mkdir", "syncdir", "create", "fsync", "link"])
def test_a_folder_that_goes_is_never_made_anew(tmp_path: pathlib.Path, operation: str) -> None:
    root = tmp_path / "archive"
    store = directory.DirectoryBackend(root)
    store.put("a/first", [b"1"])

    def hide(seen: fsops.Operation) -> None:
        if seen.name == operation and root.exists():
            root.rename(tmp_path / "hidden")

    with faults.observing(hide), pytest.raises(errors.ArchiveUnreachable):
        store.put("b/c/second", [b"2"])
    assert not root.exists()
    with pytest.raises(errors.ArchiveUnreachable):
        store.put("d/third", [b"3"])
    assert not root.exists()
    (tmp_path / "hidden").rename(root)
    store.put("d/third", [b"3"])
    assert (store.get("a/first"), store.get("d/third")) == (b"1", b"3")


MARKER = "settings"


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """Give the folder of a store that has a marker, and one more object."""
    root = tmp_path / "archive"
    store = directory.DirectoryBackend(root, marker=MARKER)
    assert store.size(MARKER) is None
    store.put(MARKER, [b"0"])
    store.put("a/first", [b"1"])
    return root


@pytest.mark.parametrize("uncovered", [True, False], ids=["an empty folder", "nothing"])
def test_nothing_is_believed_to_be_absent_while_the_marker_is_not_there(root: pathlib.Path, *, uncovered: bool) -> None:
    store = directory.DirectoryBackend(root, marker=MARKER)
    root.rename(root.with_name("hidden"))
    if uncovered:
        root.mkdir()
    for look in (
        lambda: store.size("a/first"),
        lambda: store.get("a/first"),
        lambda: store.modified("a/first"),
        lambda: list(store.list("")),
        lambda: list(store.folders("")),
        lambda: store.delete("a/first"),
        lambda: store.put("b/second", [b"2"]),
    ):
        with pytest.raises(errors.ArchiveUnreachable):
            look()
    assert root.exists() is uncovered
    assert not uncovered or list(root.iterdir()) == []


def test_a_deletion_that_meets_a_hidden_folder_is_not_believed(root: pathlib.Path) -> None:
    store = directory.DirectoryBackend(root, marker=MARKER)

    def hide(seen: fsops.Operation) -> None:
        if seen.name == "unlink":
            root.rename(root.with_name("hidden"))

    with faults.observing(hide), pytest.raises(errors.ArchiveUnreachable):
        store.delete("a/first")
    root.with_name("hidden").rename(root)
    assert store.get("a/first") == b"1"


def test_a_listing_goes_on_in_the_folder_in_which_it_began(root: pathlib.Path) -> None:
    store = directory.DirectoryBackend(root, marker=MARKER)
    store.put("b/second", [b"2"])
    store.put("c/third", [b"3"])
    listing = store.list("")
    found = [next(listing)[0]]
    root.rename(root.with_name("hidden"))
    root.mkdir()
    found += [key for key, _ in listing]
    assert sorted(found) == ["a/first", "b/second", "c/third", MARKER]


def test_what_was_linked_below_an_uncovered_folder_is_not_acknowledged(root: pathlib.Path) -> None:
    store = directory.DirectoryBackend(root, marker=MARKER)

    def uncover(seen: fsops.Operation) -> None:
        if seen.name == "mkdir" and seen.target == str(root / "b"):
            root.rename(root.with_name("hidden"))
            root.mkdir()

    with faults.observing(uncover), pytest.raises(errors.ArchiveUnreachable):
        store.put("b/second", [b"2"])


def test_what_was_linked_below_an_uncovered_folder_is_not_acknowledged_when_the_store_is_back(
    root: pathlib.Path,
) -> None:
    store = directory.DirectoryBackend(root, marker=MARKER)
    store.put("b/first", [b"1"])
    uncovered = root.with_name("uncovered")

    def come_and_go(seen: fsops.Operation) -> None:
        if seen.name == "create":
            root.rename(root.with_name("hidden"))
            (uncovered / "b").mkdir(parents=True)
            uncovered.rename(root)
        elif seen.name == "syncdir":
            root.rename(uncovered)
            root.with_name("hidden").rename(root)

    with faults.observing(come_and_go), pytest.raises(errors.ArchiveUnreachable):
        store.put("b/second", [b"2"])
    assert store.size("b/second") is None


def test_a_deletion_that_could_not_be_made_durable_is_not_acknowledged(root: pathlib.Path) -> None:
    store = directory.DirectoryBackend(root, marker=MARKER)

    def hide(seen: fsops.Operation) -> None:
        if seen.name == "syncdir" and root.exists():
            root.rename(root.with_name("hidden"))

    with faults.observing(hide), pytest.raises(errors.ArchiveUnreachable):
        store.delete("a/first")


def test_what_an_earlier_process_left_is_made_durable_or_the_store_is_away(root: pathlib.Path) -> None:
    store = directory.DirectoryBackend(root, marker=MARKER)

    def hide(seen: fsops.Operation) -> None:
        if seen.name == "syncdir" and root.exists():
            root.rename(root.with_name("hidden"))

    with faults.observing(hide), pytest.raises(errors.ArchiveUnreachable):
        store.discard_unfinished("")
