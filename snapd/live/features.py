"""What a storage daemon can do, from its own schema (query-qmp-schema) and never from its version."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NEEDED: Mapping[str, Sequence[str]] = {
    "block-export-add": ("id", "node-name", "writable", "writethrough"),
    "block-export-del": ("id", "mode"),
    "blockdev-add": ("driver", "node-name", "read-only", "auto-read-only"),
    "blockdev-del": ("node-name",),
    "blockdev-reopen": ("options",),
    "object-add": ("qom-type", "id"),
    "object-del": ("id",),
    "qom-list": ("path",),
    "qom-set": ("path", "property", "value"),
    "query-block-exports": (),
    "query-blockstats": ("query-nodes",),
    "transaction": ("actions",),
}
"""Commands that live volumes need, with the arguments that they are given."""


def missing(schema: Iterable[Mapping[str, Any]], needed: Mapping[str, Sequence[str]] = NEEDED) -> list[str]:
    """Return what a schema, as query-qmp-schema returns it, lacks: commands, or arguments as 'command.argument'."""
    entities = {entity["name"]: entity for entity in schema}
    lacking = []
    for command, arguments in needed.items():
        found = entities.get(command)
        if found is None or found["meta-type"] != "command":
            lacking.append(command)
            continue
        members = {member["name"] for member in entities[found["arg-type"]].get("members", ())}
        lacking += [f"{command}.{argument}" for argument in arguments if argument not in members]
    return lacking
