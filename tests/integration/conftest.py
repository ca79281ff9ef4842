import pathlib
import tempfile
from collections.abc import Iterator

import pytest

from snapd.v1 import environment_service_pb2
from tests.integration import running


@pytest.fixture
def short_path() -> Iterator[pathlib.Path]:
    """Give a folder whose name leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="snapd-") as folder:
        yield pathlib.Path(folder)


@pytest.fixture
def daemon(short_path: pathlib.Path) -> Iterator[running.Daemon]:
    """Run a daemon."""
    daemon = running.Daemon(short_path / "state")
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.kill()


@pytest.fixture
def client(daemon: running.Daemon) -> Iterator[running.Client]:
    """Connect to the daemon, which has an environment called `a`."""
    from_scratch = environment_service_pb2.CreateEnvironmentRequest(environment_id="a")
    with daemon.client() as client:
        client.environments.CreateEnvironment(from_scratch)
        yield client
