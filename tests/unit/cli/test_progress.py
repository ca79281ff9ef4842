import io

import pytest

from snapd import units
from snapd.cli import progress
from snapd.v1 import operation_pb2, snapshot_service_pb2
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


def test_what_the_daemon_says_of_its_speed_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    metadata = operation_pb2.OperationMetadata(
        stage="ARCHIVING", bytes_done=units.MIB, bytes_total=4 * units.MIB, bytes_per_second=3 * units.MIB, attempt=2
    )
    snapshot = snapshot_service_pb2.Snapshot()
    snapshot.archive.state = snapshot_service_pb2.Snapshot.Archive.STATE_SCHEDULED
    snapshot.archive.paused = True
    with progress.Progress("archiving") as bar:
        bar.follow(metadata)
        # Long past, by whichever clock: nothing is left.
        metadata.estimated_end_time.FromSeconds(1)
        bar.follow(metadata)
        bar.follow_archiving(snapshot)
    assert capsys.readouterr().err.splitlines() == [
        "archiving, attempt 2: 1.0 MiB of 4.0 MiB (25 %), 3.0 MiB/s",
        "archiving, attempt 2: 1.0 MiB of 4.0 MiB (25 %), 3.0 MiB/s, 0s left",
        "archiving, paused: 0 B",
    ]


def test_a_bar_shows_the_daemons_speed_rather_than_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", written)
    metadata = operation_pb2.OperationMetadata(
        stage="ARCHIVING", bytes_done=units.MIB, bytes_total=4 * units.MIB, bytes_per_second=3 * units.MIB
    )
    metadata.estimated_end_time.FromSeconds(1)
    monkeypatch.setenv("COLUMNS", "200")
    with progress.Progress("archiving") as bar:
        bar.follow(metadata)
    assert "3.0 MiB/s" in written.getvalue()
    assert "0s" in written.getvalue()


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
