"""A rebuild that is killed or fails anywhere leaves the old catalog whole, or none, and never a mixture."""

import errno
import pathlib
import sqlite3

import pytest

from snapd import errors, fsops
from snapd.catalog import copying
from snapd.service.rebuilding import rebuild
from tests.unit.service import faults
from tests.unit.service import world as worlds


class Killed(BaseException):
    """The process is gone."""


class Death:
    """Kills at the n-th operation on files."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self, operation: fsops.Operation) -> None:
        self._left -= 1
        if self._left == 0:
            raise Killed(str(operation))


@pytest.fixture
def rest(tmp_path: pathlib.Path) -> worlds.World:
    """Stores of a service that is stopped, with a volume `v`, and a catalog whose log wasn't taken over."""
    world = worlds.World(tmp_path)
    world.open()
    world.environment()
    world.volume("v")
    world.stop()
    return world


def _volumes(path: pathlib.Path) -> list[str]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return [row[0] for row in connection.execute("SELECT id FROM volumes")]
    finally:
        connection.close()


def _rebuild(world: worlds.World) -> rebuild.Outcome:
    options = rebuild.Options(replace=True, backup=world.settings.catalog_path.with_name("backup"))
    return rebuild.rebuild(world.settings, options, world.clock.now())


def test_killed_at_any_operation_it_leaves_the_old_catalog_or_none_and_is_made_again(rest: worlds.World) -> None:
    path = rest.settings.catalog_path
    copying.copy(path, path.with_name("backup"))
    old = path.read_bytes()
    log = path.with_name(f"{path.name}-wal")
    absent = whole = at = 0
    while True:
        at += 1
        for left in path.parent.glob("catalog.sqlite3*"):
            left.unlink()
        path.write_bytes(old)
        log.write_bytes(b"the old one's")
        try:
            with faults.observing(Death(at)):
                _rebuild(rest)
        except Killed:
            pass
        else:
            break
        if not path.exists():
            absent += 1
            with pytest.raises(errors.CatalogMissing):
                rest.open()
        elif path.read_bytes() == old:
            whole += 1
            assert log.read_bytes() == b"the old one's"
        else:
            assert not log.exists(), "the old catalog's log would be taken for the new one's"
            assert _volumes(path) == ["v"]
        _rebuild(rest)
        assert _volumes(path) == ["v"]
        assert not log.exists()
        assert not list(path.parent.glob(".catalog*"))
    assert absent
    assert whole


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_rebuild_that_fails_before_it_publishes_leaves_all_as_it_was(rest: worlds.World, code: int) -> None:
    path = rest.settings.catalog_path
    copying.copy(path, path.with_name("backup"))
    before = {each: each.read_bytes() for each in path.parent.glob("*") if each.is_file()}
    with (
        faults.observing(faults.fail(code, "fsync", under="")),
        pytest.raises(errors.StorageFull if code == errno.ENOSPC else errors.StorageFailed),
    ):
        _rebuild(rest)
    assert {each: each.read_bytes() for each in path.parent.glob("*") if each.is_file()} == before
