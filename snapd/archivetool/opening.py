"""Opening the archive that a configuration names, to be read only; and names of what lies in it."""

import contextlib
import logging
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from snapd import config as configs
from snapd import errors, model
from snapd.archive import layout, repository, sealing
from snapd.archive.backends import backend, directory
from snapd.archive.fencing import leases
from snapd.service import stores

Function = TypeVar("Function", bound=Callable[..., Any])

_log = logging.getLogger(__name__)


def options(function: Function) -> Function:
    """Add --config, --archive and --key-file to a command."""
    decorators = (
        click.option(
            "--config",
            "config_path",
            type=click.Path(path_type=pathlib.Path, dir_okay=False),
            help=f"Configuration file that names the archive.  [default: {configs.DEFAULT_PATH}]",
        ),
        click.option(
            "--archive",
            "folder",
            type=click.Path(path_type=pathlib.Path, file_okay=False, exists=True),
            help="The folder in which the archive lies; then no configuration is read.",
        ),
        click.option(
            "--key-file",
            type=click.Path(path_type=pathlib.Path, dir_okay=False),
            help="Keys of an encrypted archive, with --archive.",
        ),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


class Opened:
    """An archive that is read without a claim."""

    def __init__(self, store: backend.Backend, keyring: sealing.Keyring | None, folder: pathlib.Path) -> None:
        """Keep indexes, which are thrown away, in a folder."""
        self._store = store
        self._keyring = keyring
        self._folder = folder
        self._opened: dict[str, repository.Repository] = {}

    def of(self, host: str) -> repository.Repository:
        """Return the archive as a host sees it. Raises errors.InvalidField, errors.ArchiveUnreachable."""
        if host not in self._opened:
            index = self._folder / f"{layout.Host(host).name}.sqlite3"
            self._opened[host] = repository.Repository(self._store, index, host, keyring=self._keyring)
        return self._opened[host]

    def hosts(self) -> list[str]:
        """Return the hosts that have a part of the archive."""
        return self.of("reader").hosts()

    @contextlib.contextmanager
    def reading(self, host: str, environment_uid: str) -> Iterator[None]:
        """Keep an environment's packs from being deleted, for a day at most, if the store can be written."""
        area = layout.Area(host, environment_uid)
        try:
            lease = leases.Lease(self._store, layout.Host(host), area)
        except (errors.Unavailable, errors.ResourceExhausted) as error:
            _log.warning("no read lease, so that snapshots must not be deleted meanwhile: %s", error)
            yield
            return
        try:
            yield
        finally:
            lease.give_back()

    def close(self) -> None:
        """Close all."""
        for opened in self._opened.values():
            opened.close()


@contextlib.contextmanager
def opened(
    config_path: pathlib.Path | None, folder: pathlib.Path | None, key_file: pathlib.Path | None
) -> Iterator[Opened]:
    """Open the archive for the length of a block; what goes wrong ends the command with one line."""
    try:
        with tempfile.TemporaryDirectory(prefix="snapd-storage-") as scratch:
            if folder is not None:
                store: backend.Backend = directory.DirectoryBackend(folder, make=False, marker=layout.REPOSITORY)
                keyring = None if key_file is None else sealing.read_keys(key_file)
            else:
                settings = configs.load(config_path or configs.DEFAULT_PATH).settings
                store = stores.store(settings)
                keyring = None if settings.key_file is None else sealing.read_keys(settings.key_file)
            archive = Opened(store, keyring, pathlib.Path(scratch))
            try:
                yield archive
            finally:
                archive.close()
    except errors.SnapdError as error:
        raise click.ClickException(f"{error}. {error.advice}") from error


def place(text: str) -> model.ArchivePlace:
    """Return the place that HOST/ENVIRONMENT/SNAPSHOT, or a resource name, tells. Raises click.UsageError."""
    parts = text.split("/")
    if len(parts) == 6 and parts[::2] == ["hosts", "environments", "snapshots"]:
        parts = parts[1::2]
    if len(parts) != 3 or not all(parts):
        raise click.UsageError(f"{text!r} is not HOST/ENVIRONMENT/SNAPSHOT, as `list` shows them")
    return model.ArchivePlace(*parts)
