"""Asking before something is lost."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from snapd.cli import failures

Function = TypeVar("Function", bound=Callable[..., Any])


def yes_option(function: Function) -> Function:
    """Add --yes to a command."""
    return click.option("--yes", "-y", is_flag=True, help="Don't ask.")(function)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the error stream unless the answer was given. Raises failures.Declined if it is no."""
    if not yes and not click.confirm(question, err=True):
        raise failures.Declined("nothing was changed")
