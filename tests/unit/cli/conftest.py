import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from snapd.cli import main
from tests.unit.client import stub_daemon, stub_memory


class Ended(NamedTuple):
    """How a run of snapvol ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Snapvol = Callable[..., Ended]


@pytest.fixture
def memory() -> stub_memory.Memory:
    return stub_memory.Memory()


@pytest.fixture
def snapvol(
    tmp_path: pathlib.Path,
    memory: stub_memory.Memory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Snapvol]:
    """Run snapvol in this process, with environment `blue`, against a daemon of the test's own."""
    path = tmp_path / "daemon.sock"
    monkeypatch.setenv("SNAPVOL_ADDRESS", str(path))
    monkeypatch.setenv("SNAPVOL_ENVIRONMENT", "blue")

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        code = main.main(arguments)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    with stub_daemon.served(path, memory):
        yield run
