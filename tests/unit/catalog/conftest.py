import pathlib
from collections.abc import Iterator

import pytest

from snapd.catalog import db


@pytest.fixture
def catalog(tmp_path: pathlib.Path) -> Iterator[db.Catalog]:
    """Open a new catalog."""
    catalog = db.Catalog(tmp_path / "catalog.sqlite3")
    try:
        yield catalog
    finally:
        catalog.close()
