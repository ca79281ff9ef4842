"""What the commands on images share: their options, and how they fail: one line, and an exit code as qemu-img's."""

import errno
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import click

from snapd import errors

FAILED = 1
"""Wrong usage too: 2 and 3 are verdicts of `image check`."""

Function = Callable[..., Any]

image_file = click.Path(path_type=pathlib.Path)


class WrongUsage(click.UsageError):
    """A command line that is not understood."""

    exit_code = FAILED


class ImageCommand(click.Command):
    """A command whose every error is a line on standard error and exit code 1."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the command line."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise WrongUsage(error.format_message(), error.ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except click.UsageError as error:
            raise WrongUsage(error.format_message(), error.ctx) from error
        except errors.SnapdError as error:
            raise click.ClickException(printable(str(error))) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read the output has seen enough; click ends the program quietly
            _drop_output()
            problem = error.strerror or str(error)
            raise click.ClickException(
                printable(f"{error.filename}: {problem}" if error.filename else problem)
            ) from error


def _drop_output() -> None:
    """Leave unwritten what standard output doesn't take, or the end of the program would fail at it once more."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def common_options(function: Function) -> Function:
    """Add the options that every command on images has."""
    for option in (
        click.option(
            "--output", type=click.Choice(["human", "json"]), default="human", help="For people, or as qemu-img's JSON."
        ),
        click.option(
            "-U", "--force-share", is_flag=True, help="Look even while somebody writes; what is shown may be torn."
        ),
        click.option(
            "-f",
            "--format",
            "format_name",
            type=click.Choice(["qcow2"]),
            default="qcow2",
            help="The images' format; there is one.",
        ),
    ):
        function = option(function)
    return function


def printable(text: str) -> str:
    """Return text with whatever could steer a terminal written as an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
