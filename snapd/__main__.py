"""The command `snapd-storage`: which subcommands there are, and where they live.

This is the one place that imports by name, and only what is called: a command on an image starts without the daemon and
gRPC, the daemon without the tools.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import click


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def __init__(self, places: Mapping[str, str], **settings: Any) -> None:
        """Take the place, 'module:attribute', of each command by its name."""
        super().__init__(**settings)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._places})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._places.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "snapd":
                raise
            raise click.ClickException(f"{error.name} is missing: pip install 'snapd-storage[daemon]'") from error
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=Commands,
    places={
        "check": "snapd.imagetool.check:check",
        "info": "snapd.imagetool.info:info",
        "map": "snapd.imagetool.map:map_image",
    },
)
def image() -> None:
    """Look at image files, check and mend them, without a daemon."""


@click.group(
    cls=Commands,
    places={
        "adopt": "snapd.archivetool.adopt:adopt",
        "list": "snapd.archivetool.listing:list_archive",
        "restore": "snapd.archivetool.restore:restore",
        "verify": "snapd.archivetool.verify:verify",
    },
)
def archive() -> None:
    """Look at an archive, check it and take snapshots out of it, without a daemon."""


@click.group(
    cls=Commands,
    places={
        "backup-catalog": "snapd.catalogtool.backup:backup_catalog",
        "fsck": "snapd.catalogtool.fsck:fsck",
        "rebuild-catalog": "snapd.catalogtool.rebuild:rebuild_catalog",
        "serve": "snapd.serve:serve",
    },
)
@click.version_option(package_name="snapd-storage")
def main() -> None:
    """Keep volumes and snapshots on this host, and serve them over gRPC."""


main.add_command(archive)
main.add_command(image)

if __name__ == "__main__":
    main(prog_name="snapd-storage")
