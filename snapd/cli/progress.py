"""Progress of transfers and operations: a live bar with rate and remaining time, or plain lines in a log."""

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Final, Self

import click
import rich.console
import rich.progress

from snapd import clock, units
from snapd.cli import session
from snapd.client import waiting
from snapd.v1 import operation_pb2

SECONDS_BETWEEN_LINES: Final = 5.0
"""How often a line is written where there is no live bar."""


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
                rich.progress.TransferSpeedColumn(),
                rich.progress.TimeRemainingColumn(),
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

    def update(self, done: int, total: int, stage: str = "") -> None:
        """Show done of total bytes; a total of 0 isn't known yet."""
        self.done = done
        title = f"{self._title}, {stage}" if stage else self._title
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total or None, description=title)
        elif clock.monotonic_s() - self._said_s >= SECONDS_BETWEEN_LINES:
            self._said_s = clock.monotonic_s()
            of_total = f" of {units.format_size(total)} ({done * 100 // total} %)" if total else ""
            click.echo(f"{title}: {units.format_size(done)}{of_total}", err=True)

    def follow(self, metadata: operation_pb2.OperationMetadata) -> None:
        """Show how far an operation is."""
        self.update(metadata.bytes_done, metadata.bytes_total, metadata.stage)


def wait(run: session.Session, operation: str, title: str) -> None:
    """Wait for an operation, if there is one, and show how far it is. Raises errors.ApiError if it fails."""
    if not operation:
        return
    with interruptible(operation), Progress(title) as bar:
        waiting.wait(run.client, operation, on_progress=bar.follow)


@contextlib.contextmanager
def interruptible(operation: str) -> Iterator[None]:
    """Tell somebody who interrupts a wait that the work goes on."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\n{operation} goes on; see 'snapvol operation wait {operation}'", err=True)
        raise
