"""What has to be there before a daemon may make its catalog or its pool: one without the other is an accident.

An empty catalog beside layers would call all of them strays, and an empty pool under a catalog would have lost them.
"""

import pathlib
import sqlite3

from snapd import errors
from snapd.catalog import db
from snapd.pool import layers as pools
from snapd.service.settings import Settings


def require(settings: Settings) -> None:
    """Raise errors.CatalogMissing for layers without a catalog, errors.PoolMissing for a catalog without its layers.

    Raises errors.StorageFailed, errors.Corrupt if what is there can't be read.
    """
    if not catalog_is_there(settings.catalog_path):
        if pools.holds_layers(settings.pool_path):
            raise errors.CatalogMissing(path=str(settings.catalog_path), pool=str(settings.pool_path))
    elif not pools.is_there(settings.pool_path) and _has_layers(settings.catalog_path):
        raise errors.PoolMissing(path=str(settings.pool_path))


def catalog_is_there(path: pathlib.Path) -> bool:
    """Say whether there is a catalog: a file with tables in it. An empty one is what a start that died left, or worse.

    Raises errors.Corrupt if it is no database, errors.StorageFailed.
    """
    if not path.exists() or path.stat().st_size == 0:
        return False
    return _ask(path, "PRAGMA user_version") > 0


def _has_layers(path: pathlib.Path) -> bool:
    return _ask(path, "SELECT EXISTS (SELECT 1 FROM layers)") > 0


def _ask(path: pathlib.Path, sql: str) -> int:
    try:
        with db.opened_to_read(path) as connection:
            (answer,) = connection.execute(sql).fetchone()
            return int(answer)
    except sqlite3.OperationalError as error:
        raise errors.StorageFailed(path=str(path), problem=str(error)) from error
    except sqlite3.DatabaseError as error:
        raise errors.Corrupt(what=str(path), problem=str(error)) from error
