import pathlib
from collections.abc import Iterator

import pytest

from tests.stores import servers


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a versitygw with an empty bucket."""
    with servers.versitygw(tmp_path_factory.mktemp("versitygw")) as url:
        servers.make_bucket(url)
        yield url


@pytest.fixture
def proxy(versitygw: str) -> Iterator[servers.Proxy]:
    """A proxy before that server."""
    started = servers.Proxy(versitygw)
    yield started
    started.close()


@pytest.fixture
def spool(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where uploads wait."""
    return tmp_path / "spool"
