"""The model of what a power cut leaves: it must neither lose what was synced nor spare what was not."""

import os
import pathlib
import random
from collections.abc import Callable, Iterator

import pytest

from snapd import fsops
from tests.simulation import disk as disks

DRAWS = 200


@pytest.fixture
def root(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Make a folder that a model witnesses."""
    folder = tmp_path / "root"
    folder.mkdir()
    yield folder
    fsops.observe(None)


def _outcomes(root: pathlib.Path, work: Callable[[], None]) -> set[tuple[tuple[str, bytes], ...]]:
    """Return all the states that power cuts after some work were seen to leave, as (name, bytes)."""
    before = {path.name: path.read_bytes() for path in root.iterdir()}
    found = set()
    for seed in range(DRAWS):
        for path in root.iterdir():
            path.unlink()
        for name, data in before.items():
            (root / name).write_bytes(data)
        disk = disks.Disk(root)
        fsops.observe(None, disk)
        work()
        fsops.observe(None)
        disk.cut(random.Random(seed))
        found.add(tuple(sorted((path.name, path.read_bytes()) for path in root.iterdir())))
    return found


def _written(root: pathlib.Path, *, synced: bool, named: bool) -> Callable[[], None]:
    def work() -> None:
        fd = fsops.create(root / "a")
        fsops.pwrite(fd, b"1" * 512 + b"2" * 512, 0)
        if synced:
            fsops.fsync(fd)
        os.close(fd)
        if named:
            fsops.sync_directory(root)

    return work


def test_what_was_synced_is_there_whole(root: pathlib.Path) -> None:
    assert _outcomes(root, _written(root, synced=True, named=True)) == {(("a", b"1" * 512 + b"2" * 512),)}


def test_a_name_that_was_not_synced_may_be_gone_with_all_its_bytes(root: pathlib.Path) -> None:
    whole = ("a", b"1" * 512 + b"2" * 512)
    assert _outcomes(root, _written(root, synced=True, named=False)) == {(), (whole,)}


def test_bytes_that_were_not_synced_may_be_gone_torn_or_zeros(root: pathlib.Path) -> None:
    found = {state[0][1] for state in _outcomes(root, _written(root, synced=False, named=True))}
    one, two, zeros = b"1" * 512, b"2" * 512, bytes(512)
    assert {b"", one, one + two, zeros + two, one + zeros, zeros + zeros} <= found


def test_a_file_is_replaced_whole_or_not_at_all(root: pathlib.Path) -> None:
    (root / "a").write_bytes(b"old")
    found = _outcomes(root, lambda: fsops.write_file(root / "a", b"new"))
    assert found == {(("a", b"new"),)}


def test_a_removal_that_was_not_synced_may_be_undone(root: pathlib.Path) -> None:
    (root / "a").write_bytes(b"old")

    def remove() -> None:
        fsops.unlink(root / "a", durable=False)

    assert _outcomes(root, remove) == {(), (("a", b"old"),)}


def _modes(root: pathlib.Path, work: Callable[[pathlib.Path], None]) -> set[int]:
    """Return the modes that a file of mode 0640 was seen to have after some work and power cuts."""
    path = root / "a"
    found = set()
    for seed in range(DRAWS):
        path.unlink(missing_ok=True)
        path.write_bytes(b"bytes")
        path.chmod(0o640)
        disk = disks.Disk(root)
        fsops.observe(None, disk)
        work(path)
        fsops.observe(None)
        disk.cut(random.Random(seed))
        found.add(path.stat().st_mode & 0o777)
    return found


def test_a_mode_that_was_not_synced_may_be_an_older_one(root: pathlib.Path) -> None:
    def change(path: pathlib.Path) -> None:
        fsops.set_mode(path, 0o600)
        fsops.set_mode(path, 0o440)
        fd = os.open(path, os.O_RDONLY)
        fsops.fdatasync(fd)
        os.close(fd)

    assert _modes(root, change) == {0o640, 0o600, 0o440}


def test_a_mode_that_was_synced_stays(root: pathlib.Path) -> None:
    def change(path: pathlib.Path) -> None:
        fsops.set_mode(path, 0o600, durable=True)
        fsops.set_mode(path, 0o440)

    assert _modes(root, change) == {0o600, 0o440}


def test_a_sync_that_failed_saves_nothing_and_neither_does_the_next_one(root: pathlib.Path) -> None:
    (root / "a").write_bytes(b"o" * 512)
    found = set()
    for seed in range(DRAWS):
        (root / "a").write_bytes(b"o" * 512)
        disk = disks.Disk(root)
        fsops.observe(None, disk)
        fd = fsops.open_for_writing(root / "a")
        fsops.pwrite(fd, b"n" * 512, 0)
        disk.lose(fd, random.Random(seed))
        fsops.fsync(fd)
        os.close(fd)
        fsops.observe(None)
        disk.cut(random.Random(seed))
        found.add((root / "a").read_bytes())
    assert found == {b"o" * 512, b"n" * 512}


def test_a_second_cut_finds_what_the_first_one_left_safe(root: pathlib.Path) -> None:
    for seed in range(DRAWS):
        disk = disks.Disk(root)
        fsops.observe(None, disk)
        _written(root, synced=False, named=False)()
        fsops.observe(None)
        disk.cut(random.Random(seed))
        left = {path.name: path.read_bytes() for path in root.iterdir()}
        disk.cut(random.Random(seed + 1))
        assert {path.name: path.read_bytes() for path in root.iterdir()} == left
        for path in root.iterdir():
            path.unlink()
