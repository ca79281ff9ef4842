"""Progress of transfers and operations: a live bar with rate and remaining time, or plain lines in a log."""

import contextlib
import dataclasses
import datetime
import sys
import types
from collections.abc import Iterator
from typing import Final, Self

import click
import rich.console
import rich.progress
import rich.text
from google.longrunning import operations_pb2
from google.protobuf import timestamp_pb2

from snapd import clock, units
from snapd.cli import parameters, session
from snapd.client import waiting
from snapd.v1 import operation_pb2, snapshot_service_pb2

SECONDS_BETWEEN_LINES: Final = 5.0
"""How often a line is written where there is no live bar."""


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What the daemon says of the speed of its work, which it knows better than whoever asks now and then."""

    bytes_per_second: int
    remaining: datetime.timedelta | None = None


def _told(bytes_per_second: int, end: timestamp_pb2.Timestamp, *, known: bool) -> Told | None:
    """Return what a message says of its speed, if it says anything."""
    if not bytes_per_second:
        return None
    left = end.ToDatetime(datetime.UTC) - clock.SystemClock().now() if known else None
    return Told(bytes_per_second, None if left is None else max(left, datetime.timedelta(0)))


class _Speed(rich.progress.TransferSpeedColumn):
    """The daemon's rate, or else the one that is seen from here."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        told: Told | None = task.fields.get("told")
        if told is None:
            return super().render(task)
        return rich.text.Text(f"{units.format_size(told.bytes_per_second)}/s", style="progress.data.speed")


class _Remaining(rich.progress.TimeRemainingColumn):
    """The daemon's estimate, or else what follows from the rate that is seen from here."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        told: Told | None = task.fields.get("told")
        if told is None or told.remaining is None:
            return super().render(task)
        return rich.text.Text(parameters.format_duration(told.remaining), style="progress.remaining")


class Progress:
    """Shows how far one thing is. Everything goes to the error stream, so that the output stays what was asked for."""

    def __init__(self, title: str) -> None:
        self._title = title
        self.done = 0
        """Bytes that were done when it was last told."""
        self._bar: rich.progress.Progress | None = None
        self._said_s = clock.monotonic_s()
        if sys.stderr.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.DownloadColumn(binary_units=True),
                _Speed(),
                _Remaining(),
                console=rich.console.Console(stderr=True),
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=None)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int, stage: str = "", told: Told | None = None) -> None:
        """Show done of total bytes, and how fast if that was told; a total of 0 isn't known yet."""
        self.done = done
        title = f"{self._title}, {stage}" if stage and stage != self._title else self._title
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total or None, description=title, told=told)
        elif clock.monotonic_s() - self._said_s >= SECONDS_BETWEEN_LINES:
            self._said_s = clock.monotonic_s()
            of_total = f" of {units.format_size(total)} ({done * 100 // total} %)" if total else ""
            click.echo(f"{title}: {units.format_size(done)}{of_total}{_speed(told)}", err=True)

    def follow(self, metadata: operation_pb2.OperationMetadata) -> None:
        """Show how far an operation is."""
        stage = metadata.stage.lower()
        attempt = f"attempt {metadata.attempt}" if metadata.attempt > 1 else ""
        stage = ", ".join(part for part in (stage, attempt) if part and part != self._title)
        known = metadata.HasField("estimated_end_time")
        told = _told(metadata.bytes_per_second, metadata.estimated_end_time, known=known)
        self.update(metadata.bytes_done, metadata.bytes_total, stage, told)

    def follow_archiving(self, snapshot: snapshot_service_pb2.Snapshot) -> None:
        """Show how far the archiving of a snapshot is."""
        archive = snapshot.archive
        state = snapshot_service_pb2.Snapshot.Archive.State.Name(archive.state).removeprefix("STATE_").lower()
        told = _told(archive.bytes_per_second, archive.estimated_end_time, known=archive.HasField("estimated_end_time"))
        self.update(archive.bytes_done, archive.bytes_total, "paused" if archive.paused else state, told)


def _speed(told: Told | None) -> str:
    """Return what a line says of the speed."""
    if told is None:
        return ""
    left = "" if told.remaining is None else f", {parameters.format_duration(told.remaining)} left"
    return f", {units.format_size(told.bytes_per_second)}/s{left}"


def wait(run: session.Session, operation: str, title: str) -> operations_pb2.Operation | None:
    """Wait for an operation, if there is one, and show how far it is. Raises errors.ApiError if it fails."""
    if not operation:
        return None
    with interruptible(operation), Progress(title) as bar:
        return waiting.wait(run.client, operation, on_progress=bar.follow)


@contextlib.contextmanager
def interruptible(operation: str) -> Iterator[None]:
    """Tell somebody who interrupts a wait that the work goes on."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\n{operation} goes on; see 'snapvol operation wait {operation}'", err=True)
        raise
