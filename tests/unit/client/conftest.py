import pathlib
from collections.abc import Iterator

import pytest

from snapd import client
from tests.unit.client import stub_daemon, stub_memory


@pytest.fixture
def memory() -> stub_memory.Memory:
    return stub_memory.Memory()


@pytest.fixture
def socket(tmp_path: pathlib.Path, memory: stub_memory.Memory) -> Iterator[pathlib.Path]:
    path = tmp_path / "daemon.sock"
    with stub_daemon.served(path, memory):
        yield path


@pytest.fixture
def connection(socket: pathlib.Path) -> Iterator[client.Client]:
    with client.connect(str(socket)) as connected:
        yield connected
