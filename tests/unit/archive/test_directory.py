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
