"""What a run of snapvol has in common: the daemon's address, the environment, the form of the output.

It owns the options that every command takes, before the noun or after the verb, and the connection made from them.
"""

import dataclasses
import functools
from typing import Any, Final

import click

from snapd import client

Function = Any
"""A command's function; click's decorators take any signature."""


@dataclasses.dataclass
class Session:
    """The options of a run."""

    address: str = client.DEFAULT_ADDRESS
    environment: str = ""
    """An environment's id or name; empty if none was given."""
    output: str = "table"

    @functools.cached_property
    def client(self) -> client.Client:
        """The connection, made when it is first asked for."""
        return client.connect(self.address)

    def close(self) -> None:
        """Close the connection if there is one."""
        if "client" in self.__dict__:
            self.client.close()

    @property
    def as_json(self) -> bool:
        """Whether the output is for a program."""
        return self.output == "json"


pass_session: Final = click.make_pass_decorator(Session, ensure=True)


def _store(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Keep an option's value if it was given; nearer to the verb wins."""
    if value is not None and parameter.name is not None:
        setattr(context.ensure_object(Session), parameter.name, value)


def _options(*, with_variables: bool) -> list[click.Option]:
    """Return the common options. Only those before the noun read variables, lest these overrule what was given."""

    def option(*names: str, variable: str, **rest: Any) -> click.Option:
        envvar = variable if with_variables else None
        return click.Option(
            names, envvar=envvar, show_envvar=with_variables, expose_value=False, callback=_store, is_eager=True, **rest
        )

    return [
        option(
            *("--socket", "-s", "address"),
            variable="SNAPVOL_ADDRESS",
            metavar="ADDRESS",
            help=f"Socket path or host:port of the daemon. Default: {client.DEFAULT_ADDRESS}",
        ),
        option(
            *("--environment", "-e"),
            variable="SNAPVOL_ENVIRONMENT",
            metavar="ID",
            help="Environment in which short names are looked up.",
        ),
        option(
            *("--output", "-o"),
            variable="SNAPVOL_OUTPUT",
            type=click.Choice(["table", "json"]),
            help="Tables for people (default), or the API's JSON.",
        ),
    ]


class Command(click.Command):
    """A verb: takes the common options too."""

    def __init__(self, *arguments: Any, **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        self.params.extend(_options(with_variables=False))


class Noun(click.Group):
    """A noun with its verbs."""

    command_class = Command


class Program(click.Group):
    """The program: takes the common options, from the command line or from variables."""

    command_class = Command
    group_class = Noun

    def __init__(self, *arguments: Any, **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        self.params.extend(_options(with_variables=True))
