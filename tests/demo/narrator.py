"""What the demo tells: chapters, sentences, commands with their answers, what was found to hold, and how long it took.

It owns the form of the output and the running of commands. It must not know what is told.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import rich.console
import rich.markup
import rich.table

from snapd import clock

_PATIENCE_S = 600.0
"""Far more than a command takes, on a slow machine too."""


class Failed(Exception):
    """Something doesn't hold."""


class Narrator:
    """Tells the story on standard output and stops it, with Failed, at the first thing that doesn't hold."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._console = rich.console.Console(highlight=False, soft_wrap=True)
        self._environment = os.environ | environment
        self._chapters = 0
        self._durations: list[tuple[str, float]] = []

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self._chapters += 1
        self._console.print(f"\n[bold]{self._chapters}. {title}[/bold]")

    def say(self, text: str) -> None:
        """Tell something."""
        self._console.print(f"   {rich.markup.escape(text)}")

    def command(self, *words: str, fails_with: int = 0, shown: bool = True) -> str:
        """Run a program of this checkout and return its standard output, which is told too if it is shown.

        On a terminal its progress is seen as it comes. Raises Failed unless it ends with the status `fails_with`.
        """
        line = " ".join(words)
        self._console.print(f"   [cyan]$ {rich.markup.escape(line)}[/cyan]")
        live = sys.stderr.isatty() and not fails_with
        begun_s = clock.monotonic_s()
        program = os.path.join(os.path.dirname(sys.executable), words[0])
        ended = subprocess.run(
            [program, *words[1:]],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if live else subprocess.PIPE,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        took_s = clock.monotonic_s() - begun_s
        said = ended.stderr or ""
        if ended.returncode != fails_with:
            raise Failed(f"'{line}' ended with {ended.returncode}, not {fails_with}\n{said}")
        for answered in (f"{ended.stdout}{said}" if shown else said).splitlines():
            self._console.print(f"     [dim]{rich.markup.escape(answered)}[/dim]")
        self._console.print(f"     [dim]({took_s:.1f} s)[/dim]")
        return ended.stdout

    def answer(self, *words: str) -> dict[str, Any]:
        """Run snapvol and return the message that it answers with. Raises Failed."""
        found: dict[str, Any] = json.loads(self.command("snapvol", *words, "--output", "json", shown=False))
        return found

    def holds(self, condition: bool, text: str) -> None:
        """Tell that something holds. Raises Failed if it doesn't."""
        if not condition:
            raise Failed(f"this does not hold: {text}")
        self._console.print(f"   [green]✓[/green] {rich.markup.escape(text)}")

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Remember how long a block took, for the table at the end."""
        begun_s = clock.monotonic_s()
        yield
        self.took(what, clock.monotonic_s() - begun_s)

    def took(self, what: str, seconds: float) -> None:
        """Remember how long something took."""
        self._durations.append((what, seconds))

    def durations(self) -> None:
        """Tell how long everything took."""
        grid = rich.table.Table(box=None, show_header=False, padding=(0, 3, 0, 3))
        grid.add_column()
        grid.add_column(justify="right")
        for what, seconds in self._durations:
            grid.add_row(what, f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s")
        self._console.print(grid)

    def verdict(self, text: str, *, good: bool) -> None:
        """Tell the end."""
        style = "bold green" if good else "bold red"
        self._console.print(f"\n[{style}]{rich.markup.escape(text)}[/{style}]")
