"""Tables for people and JSON for programs, made from the API's messages.

It owns how fields are written; it knows their types and units by their descriptors and names, not what they mean.
"""

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click
import rich.console
import rich.table
import rich.text
from google.protobuf import descriptor, duration_pb2, json_format, timestamp_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2

from snapd import units
from snapd.cli import parameters, session

Column = tuple[str, Callable[[Any], str]]
"""A heading, and how to get a cell's text from a resource."""

_WIDTH_OF_FILES = 10_000
"""Columns where the output is no terminal: nothing is to be cut there."""


def resource(run: session.Session, message: Message) -> None:
    """Write one resource: every field that is set, or JSON."""
    if run.as_json:
        click.echo(json_format.MessageToJson(message, preserving_proto_field_name=True))
    else:
        table(details(message))


def resources(run: session.Session, messages: Iterable[Message], columns: Sequence[Column]) -> None:
    """Write a list: a row for each, or a JSON array."""
    if run.as_json:
        found = [json_format.MessageToDict(message, preserving_proto_field_name=True) for message in messages]
        click.echo(json.dumps(found, indent=2))
    else:
        rows = ([cell(message) for _, cell in columns] for message in messages)
        table(rows, [heading for heading, _ in columns])


def table(rows: Iterable[list[str]], headings: Sequence[str] | None = None) -> None:
    """Write rows under headings, or, without headings, rows of a name and what it stands for."""
    grid = rich.table.Table(box=None, show_header=headings is not None, pad_edge=False, header_style="bold")
    if headings is None:
        grid.add_column(style="cyan", no_wrap=True)
        grid.add_column(overflow="fold")
    else:
        for heading in headings:
            grid.add_column(heading, overflow="fold")
    for row in rows:
        # As text, not as markup: names and labels are other people's words.
        grid.add_row(*(rich.text.Text(cell) for cell in row))
    if sys.stdout.isatty():
        rich.console.Console(file=sys.stdout, highlight=False).print(grid)
    else:
        lines = rich.console.Console(file=io.StringIO(), width=_WIDTH_OF_FILES, highlight=False)
        with lines.capture() as captured:
            lines.print(grid)
        click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def note(text: str) -> None:
    """Write a line for people; it stays out of the output of programs."""
    click.echo(text, err=True)


def details(message: Message, prefix: str = "") -> Iterator[list[str]]:
    """Yield name and text of every field of a message that is set, those of messages in it with dotted names."""
    for field, value in message.ListFields():
        name = prefix + field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield [name, labels(value)]
        elif field.is_repeated and field.message_type is not None:
            for index, item in enumerate(value):
                yield from details(item, f"{name}[{index}].")
        elif field.is_repeated:
            yield [name, ", ".join(map(str, value))]
        elif isinstance(value, Message) and not isinstance(
            value, duration_pb2.Duration | timestamp_pb2.Timestamp | status_pb2.Status
        ):
            yield from details(value, f"{name}.")
        else:
            yield [name, scalar(field, value)]


def scalar(field: descriptor.FieldDescriptor, value: Any) -> str:
    """Return a field's value as people write it."""
    if isinstance(value, timestamp_pb2.Timestamp):
        return moment(value)
    if isinstance(value, duration_pb2.Duration):
        return parameters.format_duration(value.ToTimedelta())
    if isinstance(value, status_pb2.Status):
        return str(value.message)
    if field.enum_type is not None:
        return enum(field.enum_type, value)
    if field.name.endswith("_bytes"):
        return f"{units.format_size(value)} ({value})" if value >= units.KIB else f"{value} B"
    return str(value).lower() if isinstance(value, bool) else str(value)


def ratio(part: int, whole: int) -> str:
    """Return how often one number goes into another: '2.5 : 1'."""
    return f"{part / whole:.2f} : 1"


def enum(kind: Any, value: int) -> str:
    """Return an enum's value without its prefix: 'READY'."""
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    found = kind.values_by_number.get(value)
    return str(value) if found is None else found.name.removeprefix(prefix)


def moment(timestamp: timestamp_pb2.Timestamp) -> str:
    """Return a time in UTC to the second; nothing if it isn't set."""
    if not timestamp.seconds:
        return ""
    return timestamp.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")


def labels(pairs: Any) -> str:
    """Return labels as they are written on the command line."""
    return " ".join(f"{key}={pairs[key]}" for key in sorted(pairs))
