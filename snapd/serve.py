"""`snapd-storage serve`: from the command line to a running daemon."""

import dataclasses
import pathlib

import click

from snapd import config as configs
from snapd import daemon, errors


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    help=f"Configuration file.  [default: {configs.DEFAULT_PATH}, if it is there]",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=pathlib.Path, file_okay=False),
    help="Keep everything in this folder, the socket in its run/, and read no file.",
)
@click.option(
    "--log-format", type=click.Choice(["json", "console"]), help="How log lines look, whatever the file says."
)
def serve(config_path: pathlib.Path | None, state_dir: pathlib.Path | None, log_format: str | None) -> None:
    """Run the daemon until it is told to stop.

    Exit status: 0 after SIGTERM or SIGINT, 1 if it can't start, 2 for a wrong command line.
    """
    if config_path is not None and state_dir is not None:
        raise click.UsageError("--config and --state-dir exclude each other")
    try:
        if config_path is None and configs.DEFAULT_PATH.exists() and state_dir is None:
            config_path = configs.DEFAULT_PATH
        config = configs.defaults(state_dir) if config_path is None else configs.load(config_path)
        if log_format is not None:
            config = dataclasses.replace(config, log_format=log_format)
        daemon.run(config)
    except errors.SnapdError as error:
        raise click.ClickException(f"{error}. {error.advice}") from error
