"""A daemon that starts with a pool or a catalog alone refuses to make the other one, and leaves what there is."""

import contextlib
import pathlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator

import pytest

from snapd import errors
from tests.unit.service import world as worlds


def _remove(path: pathlib.Path) -> None:
    path.unlink()


def _empty(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def _without_tables(path: pathlib.Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


@pytest.fixture
def rest(tmp_path: pathlib.Path) -> Iterator[worlds.World]:
    """Stores of a service that is stopped, with a volume `v`."""
    world = worlds.World(tmp_path)
    world.open()
    world.environment()
    world.volume("v")
    world.stop()
    yield world
    world.stop()


@pytest.mark.parametrize("lose", [_remove, _empty, _without_tables])
def test_layers_without_a_catalog_keep_a_daemon_from_starting(
    rest: worlds.World, lose: Callable[[pathlib.Path], None]
) -> None:
    lose(rest.settings.catalog_path)
    before = sorted(rest.settings.catalog_path.parent.rglob("*"))
    with pytest.raises(errors.CatalogMissing) as refused:
        rest.open()
    assert refused.value.path == str(rest.settings.catalog_path)
    assert "rebuild-catalog" in refused.value.advice
    with pytest.raises(errors.CatalogMissing):
        rest.open()
    after = set(rest.settings.catalog_path.parent.rglob("*"))
    assert {path.name for path in after - set(before)} <= {"catalog.sqlite3-wal", "catalog.sqlite3-shm"}


def test_an_empty_pool_without_a_catalog_is_a_first_start_that_died(rest: worlds.World) -> None:
    rest.open()
    rest.delete_volume("v")
    rest.stop()
    rest.settings.catalog_path.unlink()
    rest.open()
    rest.environment()


def test_a_catalog_with_layers_whose_pool_is_not_mounted_keeps_a_daemon_from_starting(rest: worlds.World) -> None:
    pool = rest.settings.pool_path
    shutil.move(pool, pool.with_name("elsewhere"))
    with pytest.raises(errors.PoolMissing) as refused:
        rest.open()
    assert refused.value.path == str(pool)
    assert not pool.exists()
    pool.mkdir()
    with pytest.raises(errors.PoolMissing):
        rest.open()
    pool.rmdir()
    shutil.move(pool.with_name("elsewhere"), pool)
    rest.open()
    assert rest.get_volume("v").head_layer is not None


def test_a_catalog_without_layers_has_its_pool_made_anew(rest: worlds.World) -> None:
    rest.open()
    rest.delete_volume("v")
    rest.stop()
    shutil.rmtree(rest.settings.pool_path)
    rest.open()
    rest.volume("v")
