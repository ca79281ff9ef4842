"""`snapd-storage archive adopt`: a daemon takes the place of one that is gone for good."""

import pathlib

import click

from snapd import clock as clocks
from snapd import config as configs
from snapd import errors, lockfile
from snapd.service import stores


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    help=f"Configuration file of the daemon that takes over.  [default: {configs.DEFAULT_PATH}]",
)
@click.confirmation_option(prompt="Is the daemon that wrote this host's part of the archive gone for good?")
def adopt(config_path: pathlib.Path | None) -> None:
    """Take over this host's part of the archive from a daemon that is gone for good.

    The daemon of this configuration must not run, and the other's lease must be over: five minutes after it was last
    seen, or at once if it was stopped. It can't write there any more, should it come back.
    """
    try:
        config = configs.load(config_path or configs.DEFAULT_PATH)
        lock = lockfile.acquire_state(config.state_dir)
        try:
            store = stores.store(config.settings)
            repository = stores.repository(config.settings, store, clocks.SystemClock())
            try:
                claim = repository.connect(adopt=True).claim
            finally:
                repository.close()
        finally:
            lock.close()
    except errors.SnapdError as error:
        raise click.ClickException(f"{error}. {error.advice}") from error
    click.echo(f"host {claim.host.name} is this daemon's now (epoch {claim.epoch})")
