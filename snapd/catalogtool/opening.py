"""Which daemon's stores a command is about: the options that say so, and the configuration that they lead to."""

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from snapd import config as configs

Function = TypeVar("Function", bound=Callable[..., Any])


def options(function: Function) -> Function:
    """Add --config and --state-dir to a command."""
    decorators = (
        click.option(
            "--config",
            "config_path",
            type=click.Path(path_type=pathlib.Path, dir_okay=False),
            help=f"Configuration file.  [default: {configs.DEFAULT_PATH}]",
        ),
        click.option(
            "--state-dir",
            type=click.Path(path_type=pathlib.Path, file_okay=False, exists=True),
            help="The folder of a daemon that was started with --state-dir.",
        ),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def configuration(config_path: pathlib.Path | None, state_dir: pathlib.Path | None) -> configs.Config:
    """Return the configuration that the options name. Raises errors.ConfigInvalid, click.UsageError."""
    if config_path is not None and state_dir is not None:
        raise click.UsageError("--config and --state-dir exclude each other")
    return configs.load(config_path or configs.DEFAULT_PATH) if state_dir is None else configs.defaults(state_dir)
