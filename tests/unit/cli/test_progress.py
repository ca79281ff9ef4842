import pytest

from snapd import units
from snapd.cli import progress
from snapd.v1 import operation_pb2
from tests.unit.cli.conftest import Snapvol


def test_where_nobody_watches_progress_comes_as_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.Progress("archiving") as bar:
        bar.update(units.MIB, 0)
        bar.follow(operation_pb2.OperationMetadata(stage="copying", bytes_done=units.MIB, bytes_total=4 * units.MIB))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["archiving: 1.0 MiB", "archiving, copying: 1.0 MiB of 4.0 MiB (25 %)"]


def test_lines_are_kept_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress("archiving") as bar:
        for done in range(100):
            bar.update(done, 100)
    assert capsys.readouterr().err == ""


def test_who_interrupts_a_wait_learns_that_the_work_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), progress.interruptible("environments/blue/operations/op-0"):
        raise KeyboardInterrupt
    assert "snapvol operation wait environments/blue/operations/op-0" in capsys.readouterr().err


def test_an_interrupted_command_ends_with_130(snapvol: Snapvol, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    snapvol("volume", "create", "root", "--size", "1M", "--no-wait")
    monkeypatch.setattr(progress.Progress, "follow", interrupt)
    ended = snapvol("operation", "wait", "op-0")
    assert ended.code == 130
    assert "op-0 goes on" in ended.err
