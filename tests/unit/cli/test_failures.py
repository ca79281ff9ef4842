import io
import pathlib
import sys

import grpc
import pytest

from snapd.cli import main
from tests.unit.cli.conftest import Snapvol
from tests.unit.client import stub_memory


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", 2),
        (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", 3),
        (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_ALREADY_EXISTS", 4),
        (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", 4),
        (grpc.StatusCode.ABORTED, "ETAG_MISMATCH", 4),
        (grpc.StatusCode.DATA_LOSS, "CORRUPT", 6),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "POOL_FULL", 7),
        (grpc.StatusCode.INTERNAL, "INTERNAL", 1),
    ],
)
def test_an_exit_code_tells_what_kind_of_error_it_was(
    snapvol: Snapvol, memory: stub_memory.Memory, code: grpc.StatusCode, reason: str, expected: int
) -> None:
    memory.failures["GetVolume"].append(stub_memory.status(code, reason, "the reason in words"))
    ended = snapvol("volume", "show", "root")
    assert ended.code == expected
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert lines[0] == "snapvol: the reason in words"
    assert len(lines) == 2


def test_a_daemon_that_is_not_there_is_said_so(snapvol: Snapvol, tmp_path: pathlib.Path) -> None:
    ended = snapvol("system", "info", "--socket", str(tmp_path / "nobody.sock"))
    assert ended.code == 5
    assert ended.err.startswith(f"snapvol: no daemon answers at {tmp_path / 'nobody.sock'}\n")


def test_a_failed_operation_is_the_error_of_the_command(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    snapvol("volume", "create", "root", "--size", "1M", "--no-wait")
    failure = stub_memory.status(grpc.StatusCode.RESOURCE_EXHAUSTED, "POOL_FULL", "no room")
    memory.resources["environments/blue/operations/op-0"].error.CopyFrom(failure)
    ended = snapvol("operation", "wait", "op-0")
    assert ended.code == 7
    assert ended.err.startswith("snapvol: no room\n")


def test_a_wait_with_a_limit_ends_at_it(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    memory.turns = 1_000_000
    snapvol("volume", "create", "root", "--size", "1M", "--no-wait")
    assert snapvol("operation", "wait", "op-0", "--timeout", "0s").code == 5


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1), ("y\n", 0, 0), ("", 130, 1)])
def test_a_delete_asks_first(
    snapvol: Snapvol,
    memory: stub_memory.Memory,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
    left: int,
) -> None:
    snapvol("volume", "create", "root", "--size", "1M")
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    ended = snapvol("volume", "delete", "root")
    assert ended.code == code
    assert "Delete environments/blue/volumes/root?" in ended.err
    assert ended.out == ""
    assert sum("/volumes/" in name for name in memory.resources) == left


@pytest.mark.parametrize(
    "arguments",
    [
        ("volume", "create", "root"),
        ("volume", "create", "root", "--size", "ten"),
        ("volume", "create", "a/b", "--size", "1M"),
        ("volume", "create", "root", "--size", "1M", "--label", "team"),
        ("volume", "update", "root", "--colour", "red"),
        ("volume", "import", "/nonexistent/image", "--format", "raw"),
        ("snapshot", "create", "root", "--retention", "soon"),
        ("environment", "show", "environments/blue/volumes/root"),
        ("noun",),
    ],
)
def test_wrong_usage_is_code_2_and_says_where_help_is(snapvol: Snapvol, arguments: tuple[str, ...]) -> None:
    ended = snapvol(*arguments)
    assert ended.code == 2
    assert ended.err.startswith("snapvol: ")
    assert "--help" in ended.err


def test_an_update_without_a_change_is_wrong_usage(snapvol: Snapvol) -> None:
    snapvol("volume", "create", "root", "--size", "1M")
    assert snapvol("volume", "update", "root").code == 2


def test_a_file_that_cannot_be_written_is_named(snapvol: Snapvol, tmp_path: pathlib.Path) -> None:
    snapvol("volume", "create", "root", "--size", "1M")
    ended = snapvol("volume", "export", "--volume", "root", str(tmp_path / "no" / "folder.raw"))
    assert ended.code == 1
    assert "No such file or directory" in ended.err


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    assert "130  interrupted" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_completion(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main.main(["completion", shell]) == 0
    assert "_SNAPVOL_COMPLETE" in capsys.readouterr().out
