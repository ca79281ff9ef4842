import os
import pathlib
import tempfile
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


@pytest.fixture(params=["s3", "directory"])
def archive_config(request: pytest.FixtureRequest, versitygw: str, tmp_path: pathlib.Path) -> str:
    """The configuration of an archive that hosts share, encrypted."""
    keys = tmp_path / "keys"
    keys.write_text(os.urandom(32).hex() + "\n")
    keys.chmod(0o600)
    config = f'key_file = "{keys}"\n'
    if request.param == "directory":
        return config + f'path = "{tmp_path}/archive"\n'
    secret = tmp_path / "credentials"
    secret.write_text(f"{servers.CREDENTIALS.access_key} {servers.CREDENTIALS.secret_key}\n")
    secret.chmod(0o600)
    return (
        f'{config}store = "s3"\n[archive.s3]\nendpoint = "{versitygw}"\nbucket = "{servers.BUCKET}"\n'
        f'prefix = "two/{tmp_path.name}"\ncredentials_file = "{secret}"\n'
    )


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder whose sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="snapd-") as path:
        yield pathlib.Path(path)
